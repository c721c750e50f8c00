"""Embedders of libraries and servers: sentence-transformers' models, and any OpenAI-compatible HTTP endpoint.

Neither brings a dependency: the model is the caller's object, and HTTP is the standard library's.

What always holds: an API key is in no error and in no ``repr``, follows no redirect, and goes to another machine only
by HTTPS; an answer is taken only whole: as many vectors as texts, each of the right size and finite.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http.client import HTTPException
from math import isfinite
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from edge.agent.embedders import check_dimensions, check_model_name
from sync.errors import AgentDBError, InvalidValue, ProtocolError, Refused, Unauthenticated, Unreachable

TRIES_MAX = 4
BATCH_MAX = 2_048
_WAIT_S, _WAIT_S_MAX = 0.25, 10.0
_ANSWER_BYTES_MAX = 64 << 20
_SAID_CHARACTERS_MAX = 200
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class SentenceTransformerEmbedder:
    """A sentence-transformers model, or what has its ``encode(texts)``: texts to an array of (texts, dimensions)
    float32.

    ``model`` names it, in the store and on every device of the fleet; ``dimensions`` are asked of the model if they are
    not given. Raises InvalidValue.
    """

    def __init__(self, transformer: Any, *, model: str, dimensions: int | None = None) -> None:
        if not callable(getattr(transformer, "encode", None)):
            raise InvalidValue(f"a sentence transformer has encode(texts); {type(transformer).__name__} has not")
        self.model = check_model_name(model)
        self.dimensions = check_dimensions(_asked(transformer) if dimensions is None else dimensions)
        self._transformer = transformer

    def __repr__(self) -> str:
        return f"<SentenceTransformerEmbedder {self.model!r}, {self.dimensions} dimensions>"

    def embed(self, texts: Sequence[str]) -> Sequence[Any]:
        """One vector for each text. What the model raises passes."""
        found: Sequence[Any] = self._transformer.encode(list(texts))
        return found


class HttpEmbedder:
    """An OpenAI-compatible endpoint: ``url`` is that of ``…/v1/embeddings``.

    Texts are sent ``batch`` at a time; a try takes at most ``timeout_s`` seconds between two bytes. A server that is
    busy or not there is tried 4 times, with waits that double. Safe to use from several threads. Raises InvalidValue.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        dimensions: int,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        batch: int = 64,
    ) -> None:
        self.url = _checked_url(url, secret=api_key is not None)
        self.model = check_model_name(model)
        self.dimensions = check_dimensions(dimensions)
        if type(timeout_s) not in (int, float) or not 0 < timeout_s <= 3_600:
            raise InvalidValue(f"timeout_s is a number of seconds above 0, up to an hour, not {timeout_s!r:.40}")
        if type(batch) is not int or not 1 <= batch <= BATCH_MAX:
            raise InvalidValue(f"batch is a whole number from 1 to {BATCH_MAX:,}, not {batch!r:.40}")
        if api_key is not None and (type(api_key) is not str or not api_key.isascii() or not api_key.isprintable()):
            raise InvalidValue("an API key is a string of printable ASCII characters")
        self._api_key = api_key
        self._timeout_s = float(timeout_s)
        self._batch = batch
        self._opener = _opener()

    def __repr__(self) -> str:
        return f"<HttpEmbedder {self.model!r} at {self.url}, {self.dimensions} dimensions>"

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """``dimensions`` numbers for each text, in order. Raises Unreachable (no answer, or busy), Unauthenticated,
        Refused, ProtocolError (an answer that is not whole, or another model's size).
        """
        out: list[list[float]] = []
        for at in range(0, len(texts), self._batch):
            out += self._embedded(list(texts[at : at + self._batch]))
        return out

    def _embedded(self, texts: list[str]) -> list[list[float]]:
        body = json.dumps({"model": self.model, "input": texts, "encoding_format": "float"}).encode()
        wait_s = _WAIT_S
        for tries in range(1, TRIES_MAX + 1):
            try:
                return self._vectors(self._post(body), len(texts))
            except _Busy as busy:
                if tries == TRIES_MAX:
                    raise Unreachable(
                        f"{self.url}: {busy} ({TRIES_MAX} tries)", hint="is the server up, and the URL right?"
                    ) from busy
                time.sleep(min(max(wait_s, busy.after_s), _WAIT_S_MAX))
                wait_s *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    def _post(self, body: bytes) -> bytes:
        """Raises _Busy for what may be better the next time."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "agentdb-edge"}
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = Request(self.url, data=body, headers=headers, method="POST")  # noqa: S310 - the scheme is checked
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                data: bytes = answer.read(_ANSWER_BYTES_MAX + 1)
        except HTTPError as error:
            with error:
                raise self._denied(error) from None
        except (URLError, OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise _Busy(self._clean(str(reason)) or type(error).__name__) from None
        if len(data) > _ANSWER_BYTES_MAX:
            raise ProtocolError(f"{self.url} answered with more than {_ANSWER_BYTES_MAX >> 20} MiB")
        return data

    def _denied(self, error: HTTPError) -> Exception:
        try:
            said = error.read(4 * _SAID_CHARACTERS_MAX).decode("utf-8", "replace")
        except (OSError, HTTPException):
            said = ""
        what = f"status {error.code} {self._clean(said)}".strip()
        if error.code in (401, 403):
            return Unauthenticated(f"{self.url}: {what}", hint="is the API key right, and may it use this model?")
        if error.code in _BUSY:
            after = error.headers.get("Retry-After", "")
            return _Busy(what, float(after) if after.isdecimal() else 0.0)
        if 300 <= error.code < 400:
            return Refused(f"{self.url} sends us elsewhere ({error.code})", hint="give the URL that it moved to")
        return Refused(f"{self.url}: {what}", hint="is there such a model, and are the texts short enough for it?")

    def _clean(self, said: str) -> str:
        """What a server said, on one line, without the key: some repeat it."""
        if self._api_key:
            said = said.replace(self._api_key, "…")
        return " ".join(said.split())[:_SAID_CHARACTERS_MAX]

    def _vectors(self, data: bytes, count: int) -> list[list[float]]:
        try:
            rows = json.loads(data)["data"]
            order = [row.get("index", place) for place, row in enumerate(rows)]
            found = [row["embedding"] for row in rows]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._wrong("an answer without data[].embedding") from error
        if len(found) != count:
            raise self._wrong(f"{len(found)} vectors for {count} texts")
        if any(type(place) is not int for place in order) or sorted(order) != list(range(count)):
            raise self._wrong("vectors whose indexes are not those of the texts")
        out: list[list[float]] = [[]] * count
        for place, vector in zip(order, found, strict=True):
            out[place] = self._checked(vector)
        return out

    def _checked(self, vector: Any) -> list[float]:
        if not isinstance(vector, list) or len(vector) != self.dimensions:
            size = len(vector) if isinstance(vector, list) else type(vector).__name__
            raise self._wrong(f"a vector of {size} instead of {self.dimensions} numbers")
        if not all(type(number) in (int, float) and isfinite(number) for number in vector):
            raise self._wrong("a vector with something else than finite numbers")
        return vector

    def _wrong(self, what: str) -> AgentDBError:
        return ProtocolError(f"{self.url} answered with {what}", hint=f"is {self.model!r} an embedding model there?")


class _Busy(Exception):
    """Worth another try, ``after_s`` seconds later or more."""

    def __init__(self, what: str, after_s: float = 0.0) -> None:
        super().__init__(what)
        self.after_s = after_s


class _NoRedirects(HTTPRedirectHandler):
    """The key is for the server that was named, and for no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _opener() -> OpenerDirector:
    return build_opener(_NoRedirects)


def _checked_url(url: Any, *, secret: bool) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidValue(f"not a URL: {url!r:.80}") from error
    if type(url) is not str or parts.scheme not in ("http", "https") or not host or not url.isprintable():
        raise InvalidValue(f"not the URL of a server: {url!r:.80}", hint="such as http://127.0.0.1:8080/v1/embeddings")
    if "@" in parts.netloc:
        raise InvalidValue("a URL with a user or password in it is shown in errors", hint="give an api_key")
    if secret and parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidValue(f"an API key would travel to {host} in plain text", hint="use https, or no api_key")
    return url


def _asked(transformer: Any) -> Any:
    """Newer releases of sentence-transformers have another name for it."""
    for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
        method = getattr(transformer, name, None)
        if callable(method):
            return method()
    return None
