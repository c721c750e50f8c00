"""Bodies: the bytes of attachments on this disk, by their digest: ``<dir>/bodies/<2 hex>/<SHA-256 in hex>``.

A body is written to a file of its own beside, synced, and named by its digest when it is whole; then the directory is
synced, and only then may a record name it. So a crash leaves no record without its body here, at most a file that no
record names, which ``collect`` removes.

What always holds: what is under a digest's name is never changed; every read checks it against the digest; a body that
somebody is about to name (``keeping``, ``fetching``) is neither collected nor evicted meanwhile. It leaves to others:
what the cloud has (``body_notes``), which may go (``cache``), and how one comes back (``edge.link.bodies``).
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from edge.storage.durable import fsync_path, write_all
from edge.storage.log_schema import translate
from sync.errors import CorruptStore, DiskFull, InvalidValue, NotFound, TooLarge
from sync.images import image_values
from sync.limits import BODY_BYTES_MAX

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.ports import Clock

BODIES_DIRECTORY = "bodies"
ATTACHMENTS = "agent.attachments"  # the collection whose records name bodies, in ``digest``
_INCOMING = "incoming"
_CHUNK_BYTES = 1 << 20
_PAGE = 1_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Kept(NamedTuple):
    """A body that is here and durable: the SHA-256 of its bytes, and how many they are."""

    digest: bytes
    size: int


class Held(NamedTuple):
    """A file that is here. ``used_ms`` is when it was last read or written, milliseconds since 1970."""

    digest: bytes
    size: int
    used_ms: int


class Bodies:
    """Of one store. Safe to use from several threads."""

    def __init__(self, log: DeltaLog, store: str, clock: Clock) -> None:
        self.root = Path(store, BODIES_DIRECTORY)
        self._log = log
        self._clock = clock
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._removing = threading.RLock()  # taken before the other
        self._in_use: Counter[bytes] = Counter()
        self._doomed: set[bytes] = set()
        self._numbers = count()
        self._writing: set[Path] = set()

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def keeping(self, source: bytes | os.PathLike[str]) -> Iterator[Kept]:
        """The body of some bytes, or of a file: durable when the block begins, and not collected until it ends, so
        that the block can write a record that names it. Raises InvalidValue, NotFound, TooLarge, StorageError.
        """
        part = self._draft()
        try:
            with self._disk_errors(), _create(part) as file:
                digest, size = _copy(source, file)
                os.fsync(file.fileno())
            with self.using(digest):
                self._name(part, digest)
                yield Kept(digest, size)
        finally:
            _remove(part)
            with self._lock:
                self._writing.discard(part)
                self._ended.notify_all()

    def partial(self, digest: bytes) -> BinaryIO:
        """The file in which a body arrives, to read and append; what is in it stays over an interruption."""
        self._make_directories(digest)
        with self._disk_errors():
            return _create(self._partial(digest), os.O_APPEND)

    def arrived(self, digest: bytes) -> None:
        """The partial file has all bytes, and they were checked. Raises StorageError."""
        part = self._partial(digest)
        with self._disk_errors():
            fsync_path(part)
        self._name(part, digest)

    def drop_partial(self, digest: bytes) -> None:
        _remove(self._partial(digest))

    @contextmanager
    def using(self, digest: bytes) -> Iterator[None]:
        """Neither collected nor evicted until the block ends; collected then, if it was to be."""
        with self._lock:
            self._in_use[digest] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_use[digest] -= 1
                if not self._in_use[digest]:
                    del self._in_use[digest]
                doomed = digest in self._doomed and digest not in self._in_use
            if doomed:
                self.collect()

    # -- reading ------------------------------------------------------------------------------------------------------

    def open(self, digest: bytes, *, reading: bool = False) -> BinaryIO | None:
        """The body, checked, to be read from its beginning; None if it is not here. It stays readable when the body is
        evicted. ``reading``: this is a use, after which it is kept longer than what was used before. Raises
        CorruptStore, StorageError.
        """
        path = self.path(digest)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate(error, str(path)) from error
        try:
            if _digest(file) != digest:
                raise CorruptStore(
                    f"{path} has other bytes than were written: the disk, or something else, changed it",
                    hint="delete that file: if the cloud has the attachment, the next read fetches it",
                )
            file.seek(0)
            if reading and not self._log.read_only:
                now_ns = self._clock.wall_ms() * 1_000_000
                with suppress(PermissionError):  # whoever may only read it leaves no mark
                    os.utime(file.fileno(), ns=(now_ns, now_ns))
        except OSError as error:
            file.close()
            raise translate(error, str(path)) from error
        except BaseException:
            file.close()
            raise
        return file

    def __contains__(self, digest: bytes) -> bool:
        return self.path(digest).exists()

    def all(self) -> list[Held]:
        """Every body that is here, in order of digest."""
        found = []
        for folder in _listed(self.root):
            if folder.name != _INCOMING:
                for path in _listed(folder):
                    try:
                        status = path.stat()
                        found.append(Held(bytes.fromhex(path.name), status.st_size, status.st_mtime_ns // 1_000_000))
                    except (FileNotFoundError, ValueError):
                        continue  # it has just gone; or it is nothing of ours
        return found

    def named(self, instead: Mapping[str, bytes | None] | None = None) -> dict[bytes, int]:
        """What records name: digest -> size. ``instead``: images, or none, in place of some records' own."""
        instead = instead or {}
        found: dict[bytes, int] = {}
        after = ""
        while page := self._log.scan(ATTACHMENTS, after=after, limit=_PAGE) if ATTACHMENTS in self._log.schemas else []:
            for key, held in page:
                image = instead.get(key, held)
                named = names_body(image_values(image) or {}) if image else None
                if named is not None:
                    found[named.digest] = named.size
            after = page[-1][0]
        return found

    def path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.root / name[:2] / name

    # -- what goes ----------------------------------------------------------------------------------------------------

    def remove(self, digest: bytes) -> bool:
        """False, and nothing done, while somebody uses it. Raises StorageError."""
        with self._removing, self._lock:
            if digest in self._in_use:
                return False
            with self._disk_errors():
                _remove(self.path(digest))
            return True

    def collect(self) -> int:
        """Remove what no record names, and what interrupted writes have left. Returns how many bodies. What somebody
        uses goes when he has ended. Raises StorageError.
        """
        with self._removing, self._lock:
            here, named = self.all(), self.named()
            loose = [one.digest for one in here if one.digest not in named]
            gone = [digest for digest in loose if digest not in self._in_use]
            self._doomed = {digest for digest in self._in_use if digest not in named}  # some are still on their way
            kept = {one.digest.hex() for one in here}
            awaited = ({digest.hex() for digest in named} - kept) | {digest.hex() for digest in self._in_use}
            left = [path for path in _listed(self.root / _INCOMING) if path.name not in awaited]
            with self._disk_errors():
                for path in [*map(self.path, gone), *(path for path in left if path not in self._writing)]:
                    _remove(path)
            self._ended.notify_all()
            return len(gone)

    def collected(self, wait_s: float) -> bool:
        """``collect``, and whether nothing that it would remove is left: what is being read in, fetched, uploaded or
        read has its time to end. Raises StorageError.
        """
        self.collect()
        with self._lock:
            drafts = {*self._writing}
            return self._ended.wait_for(lambda: not self._doomed and drafts.isdisjoint(self._writing), wait_s)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever would remove something waits until the block ends."""
        with self._removing:
            yield

    def copy_to(self, target: str) -> None:
        """Every body that is here, checked, into the new store ``target``. Raises CorruptStore, StorageError."""
        copy = Bodies(self._log, target, self._clock)
        for held in self.all():
            file = self.open(held.digest)
            if file is None:
                continue
            with file, self._disk_errors(), copy.partial(held.digest) as out:
                while chunk := file.read(_CHUNK_BYTES):
                    write_all(out, chunk)
            copy.arrived(held.digest)

    def verify(self) -> list[str]:
        """What is wrong with the bodies that are here, in sentences."""
        problems = []
        for held in self.all():
            try:
                file = self.open(held.digest)
            except CorruptStore as error:
                problems.append(error.message)
            else:
                if file is not None:
                    file.close()
        return problems

    # -- inside -------------------------------------------------------------------------------------------------------

    def _partial(self, digest: bytes) -> Path:
        return self.root / _INCOMING / digest.hex()

    def _draft(self) -> Path:
        with self._disk_errors():
            _make(self.root, _INCOMING)
        part = self.root / _INCOMING / f"{os.getpid()}-{next(self._numbers)}"
        _remove(part)  # of a process that had the same number
        self._writing.add(part)
        return part

    def _name(self, part: Path, digest: bytes) -> None:
        with self._disk_errors():
            self._make_directories(digest)
            path = self.path(digest)
            part.replace(path)  # where there is one already it has the same bytes, or is damaged
            now_ns = self._clock.wall_ms() * 1_000_000
            os.utime(path, ns=(now_ns, now_ns))
            fsync_path(path.parent)

    def _make_directories(self, digest: bytes) -> None:
        with self._disk_errors():
            _make(self.root, _INCOMING)
            _make(self.root, digest.hex()[:2])

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            found = translate(error, str(self.root))
            if isinstance(found, DiskFull):
                raise DiskFull(found.message, hint="free some space, or set a quota: edge.cache evicts then") from error
            raise found from error


def _copy(source: bytes | os.PathLike[str], out: BinaryIO) -> tuple[bytes, int]:
    """Write the source's bytes; their digest and number."""
    if isinstance(source, bytes):
        check_size(len(source))
        write_all(out, source)
        return sha256(source).digest(), len(source)
    hasher, size = sha256(), 0
    with open_source(source) as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            check_size(size)
            hasher.update(chunk)
            write_all(out, chunk)
    return hasher.digest(), size


def names_body(fields: Mapping[str, Any]) -> Kept | None:
    """The body that a record names; None if it names none, whatever it has in those fields."""
    digest, size = fields.get("digest"), fields.get("size")
    if type(digest) is not str or not _DIGEST.fullmatch(digest) or type(size) is not int:
        return None
    return Kept(bytes.fromhex(digest), size) if 0 <= size <= BODY_BYTES_MAX else None


def check_size(size: int) -> None:
    """Raises TooLarge."""
    if size > BODY_BYTES_MAX:
        raise TooLarge(f"an attachment of {size:,} bytes; the most are {BODY_BYTES_MAX:,}", hint="cut it into several")


def open_source(path: os.PathLike[str]) -> BinaryIO:
    """The user's file. Raises NotFound, InvalidValue."""
    try:
        return Path(path).open("rb", buffering=0)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {os.fspath(path)}") from error
    except (OSError, ValueError) as error:
        raise InvalidValue(f"{path!r} cannot be read: {error}") from error


def _digest(file: BinaryIO) -> bytes:
    hasher = sha256()
    while chunk := file.read(_CHUNK_BYTES):
        hasher.update(chunk)
    return hasher.digest()


def _create(path: Path, flags: int = os.O_EXCL) -> BinaryIO:
    """A file that only its owner may read."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    return os.fdopen(handle, "ab+" if flags & os.O_APPEND else "wb", buffering=0)


def _make(root: Path, name: str) -> None:
    """A directory in the bodies' own, and that one, durably."""
    for path in (root, root / name):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            fsync_path(path.parent)


def _listed(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
