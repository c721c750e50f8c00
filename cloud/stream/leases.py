"""Leases: up to which feed position the fleet has read, so that devices may forget what was deleted before it (ADR 11).

A handshake renews the lease of its replica and says what all that it writes from now on will have seen. ``stable`` is
the least of that over the replicas whose lease runs and whose device is in good standing; a device that is silent for
longer does not hold the others up.

What always holds: within one life of the cloud ``stable`` never goes down, and is durable before a device hears of it.
It is never beyond what the archive holds: what devices forget, a restore to the newest state still knows. Whether a
late operation resurrects anything does not depend on it (``cloud.stream.ingest`` sees to that).
"""

from __future__ import annotations

import msgpack

from cloud.ports import Reading, Store
from cloud.rows import Head, Lease
from cloud.storage.archive.state import is_archived, load_state
from sync.messages import Hello
from sync.stamps import device_of

LEASE_MS = 30 * 86_400_000
_RENEWED_MS = 60_000  # a lease is not written more often
_WORKED_OUT_MS = 10_000  # nor the least of them all looked for
_NAME = "stable"


def stable_of(view: Reading, fleet: bytes, head: Head) -> int:
    """What was told last in this life of the cloud."""
    return _told(view, fleet, head)[0]


def _told(view: Reading, fleet: bytes, head: Head) -> tuple[int, int]:
    """What is stable, and when that was worked out."""
    packed = view.archive_state(fleet, _NAME)
    if packed is None:
        return 0, 0
    incarnation, position, at_ms = msgpack.unpackb(packed)
    return (int(position), int(at_ms)) if incarnation == head.incarnation else (0, 0)


def is_due(view: Reading, hello: Hello, fleet: bytes, now_ms: int) -> bool:
    """Whether this handshake has to be noted; most have not, so that a fleet that comes back at once writes little."""
    lease = view.lease(fleet, hello.replica)
    return lease is None or not 0 <= now_ms - lease.at_ms < _RENEWED_MS


def renew(store: Store, hello: Hello, fleet: bytes, now_ms: int, lease_ms: int) -> None:
    """Note the handshake; from time to time, see what is stable now. Raises StorageError."""
    with store.writing() as tx:
        head = tx.lock_head(fleet)
        tx.put_lease(fleet, Lease(hello.replica, _settled(tx, hello, fleet, head), now_ms))
        before, at_ms = _told(tx, fleet, head)
        if 0 <= now_ms - at_ms < _WORKED_OUT_MS:
            return
        revoked = {row.device for row in tx.devices(fleet) if row.revoked_ms}
        running = [
            lease.settled
            for lease in tx.leases(fleet)
            if lease.at_ms > now_ms - lease_ms and device_of(lease.replica) not in revoked
        ]
        stable = min(running)
        if is_archived(tx, fleet):
            stable = min(stable, load_state(tx, fleet).position)
        tx.set_archive_state(fleet, _NAME, msgpack.packb([head.incarnation, max(stable, before), now_ms]))


def _settled(view: Reading, hello: Hello, fleet: bytes, head: Head) -> int:
    """What all further operations of this replica will have seen: its cursor, once nothing older waits with it."""
    known = view.lease(fleet, hello.replica)
    before = known.settled if known is not None and known.settled <= head.position else 0
    row = view.replica(fleet, hello.replica)
    waits = hello.log_head != (row.last_seq if row else 0)
    if waits or hello.incarnation not in (b"", head.incarnation) or hello.cursor > head.position:
        return before
    return max(before, hello.cursor)
