"""A copy of a whole store: keys, log and bodies; projections are made anew from the log when it is opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edge.storage.appearing import appearing
from edge.storage.keystore import check_device_key, copy_keys
from edge.storage.store_making import LOG_FILE, check_vacant_target

if TYPE_CHECKING:
    from edge.storage.bodies import Bodies
    from edge.storage.delta_log import DeltaLog


def copy_store(store: str, target: str, log: DeltaLog, bodies: Bodies) -> None:
    """``target`` is there whole, or not at all. The log is copied before the bodies, of which none goes meanwhile: so
    every record's body that is here is in the copy. Raises InvalidValue, StorageError.
    """
    check_vacant_target(store, target)
    check_device_key(store)
    with appearing(target) as draft, bodies.frozen():
        copy_keys(store, draft)
        log.snapshot(os.path.join(draft, LOG_FILE))
        bodies.copy_to(draft)
