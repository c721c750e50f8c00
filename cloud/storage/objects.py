"""Object stores: a directory, S3, Google Cloud Storage, Azure or memory, behind ``cloud.ports.ObjectStore``.

What always holds: an object is there whole or not at all; ``put`` returns when it is durable;
``create_only`` is decided by the store itself (a hard link, ``If-None-Match: *``), so of two writers one is
told no. Names are lower-case paths that mean the same on every store. What the bytes mean, and whether they
are the right ones, is ``cloud.storage.archive``'s business.

obstore's own local store creates files without any fsync (strace: a link, nothing else), so that a power
cut can leave an empty file under a name that then is taken for ever. A directory therefore gets its objects
by our own temporary file → fsync → link → fsync of the directory; all else is obstore's. S3, GCS and Azure
are durable when they answer.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, MemoryStore, from_url

from cloud.config import PLACES
from cloud.ports import ObjectStore
from cloud.rows import ObjectInfo
from cloud.storage.files import sync_path
from sync.errors import (
    AgentDBError,
    DiskFull,
    InvalidConfig,
    InvalidValue,
    NotFound,
    StorageError,
    TooLarge,
    Unauthenticated,
    Unreachable,
)

OBJECT_BYTES_MAX = 64 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*")
_STATUS = re.compile(r"non-2xx status code: (\d)")
_REMOTE = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")
_TEMPORARIES_MAX = 1000
_WRITE_BYTES = 1 << 20  # Linux takes ten times as long for 16 MiB in one call as for 16 calls (ext4, measured)
_TIMEOUT_S, _ATTEMPTS, _PATIENCE_S = 30, 4, 60


def open_objects(url: str, *, create: bool = True, options: Mapping[str, Any] | None = None) -> ObjectStore:
    """The object store at a URL: a path or ``file://`` for a directory, ``s3://bucket/prefix``, ``gs://``, ``az://``,
    ``memory://`` (a new and empty one each time).

    ``create`` makes a directory that is missing. ``options`` are the driver's (``endpoint``, ``region``,
    ``access_key_id`` …); what they leave out comes from the usual environment (``AWS_ENDPOINT_URL``, ``AWS_PROFILE``'s
    variables, instance roles). Plain HTTP is only spoken to an endpoint that is given as ``http://`` in words. Raises
    InvalidConfig.
    """
    try:
        scheme = urlsplit(url).scheme if "://" in url else ""
    except ValueError as error:
        raise InvalidConfig(f"not an object store: {url!r}: {error}", hint=PLACES) from error
    if scheme == "memory":
        return BucketObjects(MemoryStore(), url, remote=False)
    if scheme in ("", "file"):
        directory = Path(unquote(urlsplit(url).path)) if scheme else Path(url)
        return DirectoryObjects(directory, create=create)
    if scheme not in _REMOTE:
        raise InvalidConfig(f"not an object store: {url!r}", hint=PLACES)
    config = dict(options or {})
    if scheme in ("s3", "s3a"):
        config.setdefault("checksum_algorithm", "SHA256")  # the server checks what it received
    endpoint = str(config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", ""))
    driver: Any = from_url  # typed by overloads, one for each scheme
    try:
        store = driver(
            url,
            config=config,
            client_options={"allow_http": endpoint.startswith("http://"), "timeout": f"{_TIMEOUT_S}s"},
            retry_config={"max_retries": _ATTEMPTS, "retry_timeout": timedelta(seconds=_PATIENCE_S)},
        )
    except (BaseError, ValueError, TypeError) as error:
        raise InvalidConfig(f"cannot use the object store {url!r}: {_first_line(error)}") from error
    return BucketObjects(store, url, remote=True)


class BucketObjects:
    """Any store of obstore's. Safe to use from several threads."""

    def __init__(self, store: Any, url: str, *, remote: bool) -> None:
        self._store = store
        self.url = url
        self._remote = remote

    def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        _check(name)
        _check_size(name, len(data))
        try:
            # Never multipart: one request is one object, and only that can be conditional.
            mode: Any = "create" if create_only else "overwrite"
            obstore.put(self._store, name, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            if create_only:
                return False
            raise
        except FileNotFoundError as error:  # on a put it can only be the bucket that is missing
            raise StorageError(f"{self.url}: there is no such bucket", hint="create it, with versioning on") from error
        except (BaseError, OSError) as error:
            raise self._error("write", name, error) from error
        return True

    def get(self, name: str) -> bytes:
        _check(name)
        try:
            result = obstore.get(self._store, name)
            _check_size(name, result.meta["size"])
            return bytes(result.bytes())
        except (BaseError, OSError) as error:
            raise self._error("read", name, error) from error

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        _check(name)
        try:
            if offset < 0 or length <= 0:
                raise InvalidValue("a range has at least one byte")
            found = bytes(obstore.get_range(self._store, name, start=offset, length=length))
        except (BaseError, OSError) as error:
            # Each driver has its own words for a range that begins behind the end, and the next may have others.
            if isinstance(error, FileNotFoundError) or offset < self.head(name).size:
                raise self._error("read", name, error) from error
            found = b""
        if len(found) != length:
            raise InvalidValue(f"object {name!r} has not got {length} bytes at {offset}")
        return found

    def head(self, name: str) -> ObjectInfo:
        _check(name)
        try:
            return _info(obstore.head(self._store, name))
        except (BaseError, OSError) as error:
            raise self._error("look at", name, error) from error

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        # Drivers match whole path segments; we promise a prefix of the name, so ask for the folder and sift.
        folder = prefix.rsplit("/", 1)[0] + "/" if "/" in prefix else None
        try:
            for chunk in obstore.list(self._store, folder, offset=after or None, chunk_size=1000):
                for meta in chunk:
                    if meta["path"].startswith(prefix) and meta["path"] > after:
                        yield _info(meta)
        except (BaseError, OSError) as error:
            raise self._error("list", prefix, error) from error

    def delete(self, name: str) -> None:
        _check(name)
        try:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, name)
        except (BaseError, OSError) as error:
            raise self._error("delete", name, error) from error

    def _error(self, verb: str, name: str, error: Exception) -> AgentDBError:
        message = f"cannot {verb} {name!r} in {self.url}: {_first_line(error)}"
        if isinstance(error, FileNotFoundError):
            return NotFound(f"{self.url}: there is no object {name!r}")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
            return Unauthenticated(message, hint="check the credentials and the bucket's policy")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(message, hint="free some space; nothing was lost")
        answered = _STATUS.search(str(error))
        if self._remote and (answered is None or answered.group(1) == "5"):  # after all retries
            return Unreachable(message, hint="the archive catches up when the object store answers again")
        return StorageError(message)


class DirectoryObjects(BucketObjects):
    """A directory of files that survives a power cut. Unfinished files are called ``name#1`` and are never listed."""

    def __init__(self, directory: Path, *, create: bool = True) -> None:
        self.directory = directory.absolute()
        try:
            if create:
                _make_directories(self.directory)
            elif not self.directory.is_dir():
                raise InvalidConfig(f"there is no directory {directory}", hint="give the place of an archive")
            store = LocalStore(self.directory)
        except (BaseError, OSError) as error:
            raise InvalidConfig(f"cannot keep objects in {directory}: {_first_line(error)}") from error
        super().__init__(store, str(self.directory), remote=False)
        self._durable: set[Path] = set()

    def put(self, name: str, data: bytes | memoryview, *, create_only: bool = False) -> bool:
        _check(name)
        _check_size(name, len(data))
        target = self.directory / name
        try:
            self._make_durable(target.parent)
            temporary = _write_temporary(target, data)
            try:
                if create_only:
                    os.link(temporary, target)
                    temporary.unlink()
                else:
                    temporary.replace(target)
            except FileExistsError:
                temporary.unlink()
                sync_path(target.parent)  # its writer may have crashed before it came to this
                return False
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            sync_path(target.parent)
        except OSError as error:
            raise self._error("write", name, error) from error
        return True

    def _make_durable(self, directory: Path) -> None:
        """The directory and its parents down from ours, synced once by this process, whoever made them."""
        if directory in self._durable:
            return
        if directory != self.directory:
            self._make_durable(directory.parent)
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_path(directory.parent)
        self._durable.add(directory)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """As promised, in order: the file system's own order is any."""
        yield from sorted(super().list(prefix, after))


def _write_temporary(target: Path, data: bytes | memoryview) -> Path:
    """A synced file beside the target. A crash may leave it; the next writer takes the next number."""
    for number in range(1, _TEMPORARIES_MAX):
        temporary = target.with_name(f"{target.name}#{number}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view[:_WRITE_BYTES]) :]
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary
    raise OSError(errno.EEXIST, f"{_TEMPORARIES_MAX} unfinished files beside {target}")


def _make_directories(directory: Path) -> None:
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)
        sync_path(made.parent)


def _check(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > 512:
        raise InvalidValue(f"not the name of an object: {name!r:.80}")


def _check_size(name: str, size: int) -> None:
    if size > OBJECT_BYTES_MAX:
        raise TooLarge(f"object {name!r} has {size} bytes; the bound is {OBJECT_BYTES_MAX}")


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], int(meta["last_modified"].timestamp() * 1000))


def _first_line(error: Exception) -> str:
    """The drivers append a dump of its internals; a person needs the first line."""
    return str(error).split("\n", 1)[0][:300]
