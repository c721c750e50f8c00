"""What python-tuf itself says to an update: its private ``TrustedMetadataSet``, with a clock of ours."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from tuf.api.exceptions import EqualVersionNumberError, RepositoryError
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from sync.manifests import Offer
from tests.trust_world import at


def oracle(stored: Mapping[str, bytes], offer: Offer, now_ms: int) -> TrustedMetadataSet:
    """As python-tuf's Updater does it: roots, then each file after the one that is held. Raises what it raises."""
    found = TrustedMetadataSet(stored["root"], EnvelopeType.METADATA)
    found.reference_time = at(now_ms)
    for root in offer.roots:
        found.update_root(root)
    if "timestamp" in stored:
        with suppress(RepositoryError):
            found.update_timestamp(stored["timestamp"])
    with suppress(EqualVersionNumberError):
        found.update_timestamp(offer.timestamp)
    if "snapshot" in stored:
        with suppress(RepositoryError):
            found.update_snapshot(stored["snapshot"], trusted=True)
    found.update_snapshot(offer.snapshot)
    found.update_targets(offer.roles["targets"])
    for role in ("policies", "models"):
        found.update_delegated_targets(offer.roles[role], role, "targets")
    return found
