"""Faults in who may speak: enrollment, revocation, keys."""

from __future__ import annotations

from simulations.mutants import Mutant

_ENROLLMENT = "cloud/identity/enrollment.py"

MUTANTS = [
    Mutant(
        "revoked-segments-taken",
        "cloud/stream/admission.py",
        "    if bound is not None and header.last_seq > bound:\n",
        "    if bound is not None and header.last_seq < bound:\n",
        "a push that was under way when its device was revoked is taken",
        "tests/cloud/test_ingest.py::test_a_revoked_device_adds_nothing_but_what_is_held_stays",
    ),
    Mutant(
        "revoked-state-taken",
        "cloud/stream/admission.py",
        "        if bound is not None:\n",
        "        if bound == 0:\n",
        "a repair that was under way when its device was revoked is taken",
        "tests/cloud/test_ingest.py::test_a_revoked_device_adds_nothing_but_what_is_held_stays",
    ),
    Mutant(
        "revoked-requests-accepted",
        "cloud/identity/auth.py",
        "    if row.revoked_ms:\n",
        "    if row.revoked_ms < 0:\n",
        "a revoked device reads on",
        "tests/attacks/test_forged_requests.py::test_a_revoked_device",
    ),
    Mutant(
        "revoked-and-same-keys",
        _ENROLLMENT,
        "        self.rotate(fleet, because)\n",
        "",
        "what is written after a revocation is sealed with a key that the revoked device has",
    ),
    Mutant(
        "revoked-key-comes-back",
        _ENROLLMENT,
        "    if known.revoked_ms:\n",
        "    if known.revoked_ms < 0:\n",
        "a revoked device joins again with any token, and is given all keys",
    ),
    Mutant(
        "token-without-end",
        "cloud/storage/sqlite_writing.py",
        "SET uses = uses - 1 WHERE token_id = ? AND uses > 0",
        "SET uses = max(uses - 1, 0) WHERE token_id = ?",
        "a token for one device admits any number",
        "tests/cloud/test_enrollment.py::test_a_token_has_as_many_uses_as_it_was_given",
    ),
    Mutant(
        "newest-key-withheld",
        _ENROLLMENT,
        "    chosen = ring.epochs()[-EPOCHS_SENT_MAX:] if epochs is None else epochs\n",
        "    chosen = (ring.epochs()[:1] + ring.epochs()[1:-1]) if epochs is None else epochs\n",
        "after a revocation devices are not given the key by which pages are sealed from then on",
    ),
]
