"""What ``ModelStore.status`` says of a model, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sync.activation import SOAKING, Note, Ran, Version
from sync.errors import StorageError, UnsupportedVersion

if TYPE_CHECKING:
    from edge.control.model_store import ModelStore


class ModelStatus(NamedTuple):
    """Of one name. ``number`` and ``version`` are what is in use, 0 and "" for nothing; ``digest`` is its manifest's
    SHA-256 in hex; ``next`` is the number that is fetched or tried, 0 for none. ``returned`` is the number that came
    back last, and ``why``. ``soak``: how far it is (ms, uses, errors, the p95 of uses in ms) and what it needs.
    ``runner`` says by what the probes are run. ``measured`` is what they measured in this process. ``fetched``: bytes,
    of how many. ``problem`` is what stands in the way, or empty. ``refused``: versions that are not tried here again.
    """

    name: str
    state: str
    number: int
    version: str
    digest: str
    bytes: int
    next: int
    previous: int
    returned: int
    why: str
    tries: int
    soak: dict[str, Any]
    runner: str
    measured: dict[str, Any]
    fetched: dict[str, int]
    problem: str
    refused: list[dict[str, Any]]

    def shown(self) -> dict[str, Any]:
        """As plain values."""
        return self._asdict()


def shown(store: ModelStore, name: str, note: Note) -> ModelStatus:
    """Raises StorageError."""
    version, size, runner, unknown = _described(store, name, note.active or note.candidate)
    declined = store.declined.get(name)
    refused = [
        {"number": one.number, "digest": one.digest.hex(), "reason": one.reason, "at_ms": one.at_ms}
        for one in (*([declined] if declined is not None else []), *store.tables.refused(name))
    ]
    active, outcome = note.active, store.measured.get(name)
    done, total = store.fetched.get(name, (0, 0))
    return ModelStatus(
        name,
        note.state,
        _number(active),
        version if active is not None else "",
        active.digest.hex() if active is not None else "",
        size if active is not None else 0,
        _number(note.candidate),
        _number(note.previous),
        _number(note.returned),
        note.why,
        note.tries,
        _soak(note, store.ran(name), store.p95_ms(name)),
        runner,
        {} if outcome is None else outcome.measured,
        {"bytes": done, "of": total} if total and note.candidate is not None else {},
        store.unread().get(name) or store.problem(name) or unknown,
        [one for at, one in enumerate(refused) if one["digest"] not in [other["digest"] for other in refused[:at]]],
    )


def _number(version: Version | None) -> int:
    return 0 if version is None else version.number


def _soak(note: Note, ran: Ran, p95_ms: float | None) -> dict[str, Any]:
    if note.state != SOAKING or note.active is None:
        return {}
    rules = note.active.rules
    return {
        "uptime_ms": note.uptime_ms + ran.uptime_ms,
        "uses": note.uses + ran.uses,
        "errors": note.errors + ran.errors,
        "needs_uptime_ms": rules.uptime_ms,
        "needs_uses": rules.uses,
        "p95_ms": p95_ms,
    }


def _described(store: ModelStore, name: str, version: Version | None) -> tuple[str, int, str, str]:
    """The version's own name, its size in bytes, by what it is probed; and why nobody here knows these."""
    if version is None:
        return "", 0, "", ""
    try:
        manifest = store.slots(name).documents(version.digest).manifest
    except StorageError as error:
        return "", 0, error.message, ""
    except UnsupportedVersion as error:
        return "", 0, "", f"{error.message}: it stays as it is; {error.hint}"
    wanted = manifest.needs.runner or name
    found = store.runners.get(wanted)
    runner = found or f"none: [models.runners] has no {wanted!r}, only headers are read"
    return manifest.version, manifest.size, runner, ""
