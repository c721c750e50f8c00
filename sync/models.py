"""The manifest of one version of a model: which files it has, of which chunks, what it needs, how it is tried.

``models/<name>/<number>.json`` is a TUF target: canonical JSON (RFC 8785), at most 1 MiB, one closed schema with a
version of its own (docs/adr/0025). What always holds after ``Manifest.parse``: every bound is kept; paths are relative,
without links or ``..``, and no two are the same file anywhere; files follow one another in the chunk list without gap
or overlap. ``Manifest.chunk_list`` holds the list to it. Whether the bytes were signed is ``sync.manifests``' business.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec

from sync import canonical
from sync.chunks import CHUNKS_MAX, PACKS_MAX, ChunkList, file_digest
from sync.errors import InvalidValue, Malformed, TooLarge, UnsupportedVersion
from sync.messages import UNDECODABLE
from sync.targets import NUMBER_MAX, Kind, TargetName

MANIFEST_BYTES_MAX = 1 << 20
SCHEMA = 1
FILES_MAX = 10_000
PROBES_MAX = 64
PATH_BYTES_MAX = 1024
RESERVED = ".agentdb"  # what a slot's own files begin with

_NUMBERS = "integers of 2^53 and more, and bytes, go as text; NaN and infinity do not"

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
ModelName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Whole = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Short = Annotated[str, msgspec.Meta(max_length=64)]
Text = Annotated[str, msgspec.Meta(max_length=1024)]


class _Closed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is not named here is an error."""


class _Probe(_Closed, frozen=True, tag_field="kind"):
    """One thing that has to hold before a model is used."""


class Loads(_Probe, frozen=True, tag="loads"):
    within_ms: Positive = 60_000


class Golden(_Probe, frozen=True, tag="golden"):
    """For this input the runner gives this output; numbers within ``tolerance`` of it."""

    input: Any
    output: Any
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Latency(_Probe, frozen=True, tag="latency"):
    p95_ms: Annotated[float, msgspec.Meta(gt=0)]
    runs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20


class Memory(_Probe, frozen=True, tag="memory"):
    peak_bytes: Positive


class Errors(_Probe, frozen=True, tag="errors"):
    """While it soaks: at most this share of at least so many uses."""

    share_max: Share
    of_at_least: Positive = 50


Probe = Loads | Golden | Latency | Memory | Errors


class Soak(_Closed, frozen=True):
    """How long, and for how many uses, a model has to do well before it is kept."""

    uptime_s: Whole = 0
    uses: Whole = 0


class Needs(_Closed, frozen=True):
    """Of the device. ``runner`` is a name in its edge.toml; ``hardware`` a query on what it reports; 0 and "": any."""

    runner: Short = ""
    disk_bytes: Whole = 0
    memory_bytes: Whole = 0
    hardware: Text = ""


class ListRef(_Closed, frozen=True):
    """The chunk list, an object of its own."""

    sha256: Sha256
    count: Annotated[int, msgspec.Meta(ge=0, le=CHUNKS_MAX)]


class PackRef(_Closed, frozen=True):
    """``id`` names it in the object store; ``epoch`` is of the key that its chunks are sealed with."""

    id: Sha256
    epoch: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)]


class FileRef(_Closed, frozen=True):
    """``size`` in bytes. ``chunks``: the first, and the one after the last. ``digest`` is over its chunks' digests
    (``sync.chunks``); ``sha256`` is the plain one, for people, "" unless it was asked for.
    """

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_BYTES_MAX)]
    size: Whole = msgspec.field(name="bytes")
    chunks: tuple[Whole, Whole]
    digest: Sha256
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``runs_code``: a file of it runs code of its maker's when it is loaded (a pickle), and that was allowed in words;
    a device has to allow it, too.
    """

    schema: Literal[1]
    name: ModelName
    number: Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    size: Whole = msgspec.field(name="bytes")
    chunks: ListRef
    packs: Annotated[list[PackRef], msgspec.Meta(max_length=PACKS_MAX)]
    files: Annotated[list[FileRef], msgspec.Meta(min_length=1, max_length=FILES_MAX)]
    lineage: Annotated[dict[Short, Text], msgspec.Meta(max_length=64)] = {}
    metrics: Annotated[dict[Short, int | float], msgspec.Meta(max_length=256)] = {}
    needs: Needs = Needs()
    probes: Annotated[list[Probe], msgspec.Meta(max_length=PROBES_MAX)] = []
    soak: Soak = Soak()
    runs_code: bool = False

    @staticmethod
    def parse(data: bytes) -> Manifest:
        """Raises Malformed, TooLarge, and UnsupportedVersion for a schema that this build does not know."""
        if len(data) > MANIFEST_BYTES_MAX:
            raise TooLarge(f"a manifest of {len(data)} bytes; the bound is {MANIFEST_BYTES_MAX}")
        try:
            document = canonical.read(data)
        except ValueError as error:
            raise Malformed(
                f"a manifest is canonical JSON: {error!s:.200}", hint="publish it with agentdb-cloud models"
            ) from error
        if isinstance(document, dict) and document.get("schema") != SCHEMA:
            raise UnsupportedVersion(
                f"a manifest of schema {str(document.get('schema'))[:20]!r}", hint="update this side's software"
            )
        try:
            manifest = msgspec.convert(document, Manifest)
        except UNDECODABLE as error:
            raise Malformed(f"not a model's manifest: {error!s:.200}") from error
        _check_files(manifest)
        return manifest

    def encode(self) -> bytes:
        """Canonical JSON. Raises TooLarge, and InvalidValue for a number that JSON has not."""
        try:
            data = canonical.write(msgspec.to_builtins(self))
        except ValueError as error:
            raise InvalidValue(f"the manifest has no canonical form: {error!s:.200}", hint=_NUMBERS) from error
        if len(data) > MANIFEST_BYTES_MAX:
            raise TooLarge(
                f"the manifest would have {len(data)} bytes; the bound is {MANIFEST_BYTES_MAX}",
                hint="fewer files, or smaller probes",
            )
        return data

    @property
    def path(self) -> str:
        """Of the target."""
        return target_path(self.name, self.number)

    @property
    def disk_bytes(self) -> int:
        """What a slot with it takes, at least."""
        return max(self.size, self.needs.disk_bytes)

    def chunk_list(self, data: bytes) -> ChunkList:
        """The list that this manifest names. Raises Malformed for another one, TooLarge."""
        found = ChunkList.parse(data)
        if sha256(data).hexdigest() != self.chunks.sha256 or len(found.chunks) != self.chunks.count:
            raise Malformed("another chunk list than the manifest names")
        if any(chunk.pack >= len(self.packs) for chunk in found.chunks):
            raise Malformed("the chunk list names a pack that the manifest does not")
        for file in self.files:
            chunks = found.chunks[slice(*file.chunks)]
            if sum(chunk.length for chunk in chunks) != file.size or file_digest(chunks).hex() != file.digest:
                raise Malformed(f"the chunks of {file.path!r} are not those of the manifest")
        return found


# Two threads that make msgspec look at a type for the first time bring the process down (0.22): it is looked at here.
msgspec.json.Decoder(Manifest)


def target_path(name: str, number: int) -> str:
    return TargetName(Kind.MODEL, name, number).path


def list_path(name: str, number: int) -> str:
    """Of its chunk list, which is kept with the targets and named by the manifest."""
    return f"models/{name}/{number}.chunks"


def check_path(path: str) -> None:
    """Whether a model's file may have this path. Raises Malformed."""
    parts = path.split("/")
    if len(path.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX or "\\" in path:
        raise Malformed(f"not a file's path in a model: {path[:80]!r}")
    for part in parts:
        plain = part not in ("", ".", "..") and len(part.encode("utf-8", "surrogatepass")) <= 255
        # Cc, Cf, Cs, Co, Cn: what cannot be seen, or is no character at all
        if not plain or part.startswith(RESERVED) or any(unicodedata.category(sign)[0] == "C" for sign in part):
            raise Malformed(f"not a file's path in a model: {path[:80]!r}", hint="relative, without . and ..")


def check_paths(paths: Sequence[str]) -> None:
    """That each may be, and no two are the same file, or one a folder of another, on any file system. Raises
    Malformed.
    """
    for path in paths:
        check_path(path)
    folded = sorted(_folded(path) for path in paths)
    for before, after in pairwise(folded):
        if before == after or after[: len(before)] == before:
            raise Malformed(f"two files of a model are in each other's way: {'/'.join(after)[:80]!r}")


def _folded(path: str) -> tuple[str, ...]:
    """As a file system sees it that tells neither case nor composition of letters apart."""
    return tuple(unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold()).split("/"))


def _check_files(manifest: Manifest) -> None:
    check_paths([file.path for file in manifest.files])
    at = 0
    for file in manifest.files:
        first, end = file.chunks
        if first != at or end < first or (end == first) != (file.size == 0):
            raise Malformed("a manifest whose files do not follow one another")
        at = end
    if at != manifest.chunks.count or sum(file.size for file in manifest.files) != manifest.size:
        raise Malformed("a manifest whose files are not all of it")
