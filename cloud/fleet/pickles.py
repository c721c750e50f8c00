"""Which files run code of their maker's when they are loaded: pickles, and what is known to carry them.

Told by content (a pickle's beginning; a zip or tar with one in it, as PyTorch writes them; NumPy arrays of objects)
and, where content may be compressed, by name. What always holds: a file is looked at, never loaded; no more than
``HEAD_BYTES`` of it and of ``MEMBERS_MAX`` members are read; an archive that cannot be looked into, or not to its end,
is taken for one. Formats that carry code by other means (Keras' lambdas, a GGUF's templates) are not told from others
here.
"""

from __future__ import annotations

import lzma
import pickletools
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from errno import EINVAL
from io import BytesIO, StringIO
from pathlib import Path
from typing import BinaryIO

HEAD_BYTES = 64 << 10
MEMBERS_MAX = 10_000
_MEMBER_HEAD_BYTES = 4096
_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".p", ".pck"})
# What a pickle that calls something has: GLOBAL and INST name it in the text, STACK_GLOBAL by two words before it.
_NAMES, _STACK_GLOBAL = "ci", "\x93"
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# RuntimeError: zipfile's, of what is encrypted, and of a version or a compression that it does not know. OSError:
# bz2's, without a number, and a file's that is to be read before its beginning.
_UNREADABLE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(RuntimeError, EOFError, ValueError, OSError),
)
_OF_WHAT_IS_READ = (None, EINVAL)  # numbers of an OSError that is not the disk's
_OBJECTS = re.compile(rb"""['"][|<>=]?O[0-9]*['"]""")


def runs_code(name: str, open_file: Callable[[], BinaryIO]) -> str:
    """Why the file has to be taken for one that does; "" if it has not. Raises OSError."""
    if found := _by_name(name):
        return found
    with open_file() as file:
        head = file.read(HEAD_BYTES)
        if found := _by_head(head):
            return found
        if head[:4] in _ZIPS:
            return _in_zip(file)
        return _in_tar(file) if _is_tar(head) else ""


def _by_name(name: str) -> str:
    suffixes = {suffix.lower() for suffix in Path(name).suffixes[-2:]}
    return f"{min(suffixes & _SUFFIXES)} files are loaded with pickle" if suffixes & _SUFFIXES else ""


def _by_head(head: bytes) -> str:
    if head.startswith(b"\x93NUMPY") and _OBJECTS.search(head[:HEAD_BYTES]):
        return "a NumPy array of objects"
    return "a pickle" if _is_pickle(head) else ""


def _is_pickle(head: bytes) -> bool:
    """Of protocol 2 and later as it says. One that does not say so: if it calls something, and is one up to its end or
    as far as it was read.
    """
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    calls, words = False, 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text that is taken for a pickle's
            for opcode, argument, _ in pickletools.genops(BytesIO(head)):
                if opcode.code in _NAMES:
                    if not all(map(_is_dotted_name, str(argument).split(" "))):
                        return False
                    calls = True
                words += isinstance(argument, str)
                calls = calls or (opcode.code == _STACK_GLOBAL and words >= 2)
            if calls:
                pickletools.dis(head, StringIO())  # whether its stack comes out right
    except (ValueError, IndexError, OverflowError) as error:
        return calls and len(head) == HEAD_BYTES and "unknown" not in str(error)
    return calls


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _in_zip(file: BinaryIO) -> str:
    # Other readers than ours may be less strict with what is damaged: what cannot be looked into is not taken.
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MEMBERS_MAX:
                return f"a zip of more than {MEMBERS_MAX:,} files, which are not all looked at"
            for member in members:
                if found := _by_name(member.filename) or _by_head(_member_head(archive, member)):
                    return f"{found}, inside: {member.filename[:80]}"
    except _UNREADABLE as error:
        return _unreadable("zip", error)
    return ""


def _unreadable(kind: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno not in _OF_WHAT_IS_READ:
        raise error
    return f"a {kind} that cannot be looked into ({error})"


def _member_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as inside:
        return inside.read(_MEMBER_HEAD_BYTES)


def _is_tar(head: bytes) -> bool:
    """By its checksum, as tars were before they had a word for it."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _in_tar(file: BinaryIO) -> str:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= MEMBERS_MAX:
                    return f"a tar of more than {MEMBERS_MAX:,} files, which are not all looked at"
                inside = archive.extractfile(member) if member.isfile() else None
                head = inside.read(_MEMBER_HEAD_BYTES) if inside else b""
                if found := _by_name(member.name) or _by_head(head):
                    return f"{found}, inside: {member.name[:80]}"
    except _UNREADABLE as error:
        return _unreadable("tar", error)
    return ""
