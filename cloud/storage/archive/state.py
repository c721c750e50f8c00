"""What a store remembers of its archive: where it stands, kept in the store's ``archive_state`` under "archive".

It is written after the manifest that it speaks of was committed and read back. The feed may be trimmed up to
``position``, never beyond it.
"""

from __future__ import annotations

import msgspec

from cloud.ports import Reading, Transaction
from cloud.storage.archive.envelope import NO_PREVIOUS
from cloud.storage.archive.manifest import Branch
from sync.errors import CorruptStore
from sync.messages import U63, UNDECODABLE, Hash32
from sync.segment import GENESIS

_NAME = "archive"


class ArchiveState(msgspec.Struct, array_like=True, frozen=True):
    """``number``/``sha256``: the newest manifest (0 and zeros: none). ``position``/``at_ms``: up to where the feed is
    archived, and when that was accepted. ``snapshot``: the position of the newest snapshot. ``branch`` is to be
    declared by the first manifest after a restore.
    """

    number: U63 = 0
    sha256: Hash32 = NO_PREVIOUS
    position: U63 = 0
    at_ms: U63 = 0
    last_segment: Hash32 = GENESIS
    snapshot: U63 = 0
    branch: Branch | None = None

    @property
    def archived(self) -> int:
        """The feed position up to which a restore brings back everything."""
        return self.position if self.number else 0

    @property
    def begins_late(self) -> bool:
        """Nothing is archived yet, and the feed's beginning will not be: the first manifest carries a snapshot."""
        return self.number == 0 and self.position > 0


_decoder = msgspec.msgpack.Decoder(ArchiveState)


def load_state(view: Reading, fleet: bytes) -> ArchiveState:
    """Raises CorruptStore."""
    data = view.archive_state(fleet, _NAME)
    if data is None:
        return ArchiveState()
    try:
        return _decoder.decode(data)
    except UNDECODABLE as error:
        raise CorruptStore(f"the state of the archive is damaged: {error}", hint="restore from the archive") from error


def is_archived(view: Reading, fleet: bytes) -> bool:
    """Whether this store has ever had an archive."""
    return view.archive_state(fleet, _NAME) is not None


def begin_anew(tx: Transaction, fleet: bytes) -> None:
    """For an archive at an empty place: everything that the store still holds goes there. What was trimmed from the
    feed cannot, so then it begins with a snapshot.
    """
    head, before = tx.head(fleet), load_state(tx, fleet)
    late = ArchiveState(position=head.position, at_ms=before.at_ms)
    save_state(tx, fleet, late if head.trimmed else ArchiveState())


def save_state(tx: Transaction, fleet: bytes, state: ArchiveState) -> None:
    tx.set_archive_state(fleet, _NAME, msgspec.msgpack.encode(state))
