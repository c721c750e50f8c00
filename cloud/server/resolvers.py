"""The operator's resolvers: Python functions named in ``[conflicts.resolvers]``, found, checked, and asked once more.

What always holds: only a command that judges conflicts imports them, so a device can be revoked where the operator's
code cannot be imported; a conflict that its resolver could not decide stays open with the reason in its note, and
the log and ``status`` say so.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from cloud.control_plane import ControlPlane
from cloud.ports import Reading, Store
from cloud.rows import Conflict
from cloud.storage.fold import Held
from cloud.stream.rules import Resolver
from cloud.stream.schemas import SchemaBook
from sync.errors import AgentDBError, InvalidConfig

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)

PREFIX = "resolver:"
ARGUMENTS = "(collection, key, field, held, came, context)"
_LOOKED_AT = 10_000
_PAGE = 100  # a conflict may hold two values of 256 KiB


class Undecided(NamedTuple):
    """Conflicts that wait although a rule was to decide them: how many of the newest 10,000, and why the last does."""

    conflicts: int = 0
    newest: int = 0
    reason: str = ""


class Retried(NamedTuple):
    """Which were decided; which were not, with the reason."""

    decided: list[int]
    left: list[tuple[int, str]]


# -- found ----------------------------------------------------------------------------------------------------------


def load_resolvers(names: Mapping[str, str]) -> dict[str, Resolver]:
    """Raises InvalidConfig for one that cannot be imported, or called as it will be."""
    return {name: _load(f"[conflicts] resolvers.{name} = {path!r}", path) for name, path in names.items()}


def _load(what: str, path: str) -> Resolver:
    module_name, _, attribute = path.partition(":")
    module = _import(what, module_name)
    try:
        found: Resolver = getattr(module, attribute)
    except AttributeError as error:
        raise InvalidConfig(
            f"{what}: {module_name} has no {attribute!r}", hint=f"name a function of {module.__file__ or module_name}"
        ) from error
    if not callable(found):
        raise InvalidConfig(f"{what} is no function", hint=f"name a function that takes {ARGUMENTS}")
    try:
        inspect.signature(found).bind(*ARGUMENTS.split(", "))
    except TypeError as error:
        raise InvalidConfig(
            f"{what} cannot be called as a resolver: {error}", hint=f"it must take {ARGUMENTS} and return the value"
        ) from error
    except ValueError:  # a builtin without a signature: seen when it is called
        pass
    return found


def _import(what: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            hint = "install its package where this runs, or put the directory that it lies in into PYTHONPATH"
        else:
            hint = f"it imports {missing!r}: install that where this runs"
        raise InvalidConfig(f"{what}: {error}", hint=hint) from error
    except Exception as error:  # the operator's code may raise anything
        raise InvalidConfig(
            f"{what}: importing {module} raised {type(error).__name__}: {error}",
            hint=f"mend it: python -c 'import {module}'",
        ) from error


def missing_resolvers(view: Reading, fleet: bytes, known: Mapping[str, object]) -> dict[str, list[str]]:
    """Collections by the resolver that they are declared with and that is not configured."""
    book = SchemaBook.load(view, fleet, view.head(fleet).position)
    missing: dict[str, list[str]] = {}
    for collection in book.names():
        rule = book.get(collection).conflict
        if rule.startswith(PREFIX) and rule.removeprefix(PREFIX) not in known:
            missing.setdefault(rule.removeprefix(PREFIX), []).append(collection)
    return missing


# -- what they left undecided ---------------------------------------------------------------------------------------


def undecided(view: Reading, fleet: bytes) -> Undecided:
    count, newest, reason = 0, 0, ""
    for row in _waiting(view, fleet, max(0, view.counts(fleet)["conflicts"] - _LOOKED_AT)):
        count, newest, reason = count + 1, row.number, row.note
    return Undecided(count, newest, reason)


def _waiting(view: Reading, fleet: bytes, after: int) -> Iterator[Conflict]:
    """Open conflicts of a resolver's."""
    while rows := view.conflicts(fleet, after, _PAGE, state="open"):
        yield from (row for row in rows if row.rule.startswith(PREFIX))
        after = rows[-1].number


def watcher(store: Store, fleet: bytes) -> Callable[[], None]:
    """Logs, each time it is called, what resolvers have left undecided since the last time."""
    with store.reading() as view:
        after = view.counts(fleet)["conflicts"]

    def watch() -> None:
        nonlocal after
        reasons: dict[str, list[int]] = {}
        with store.reading() as view:
            for row in _waiting(view, fleet, after):
                reasons.setdefault(row.note, []).append(row.number)
        for reason, numbers in reasons.items():
            some = "1 conflict" if len(numbers) == 1 else f"{len(numbers)} conflicts"
            logger.warning("%s left open, the newest is %d: %s", some, numbers[-1], reason)
            after = max(after, numbers[-1])

    return watch


def retry(plane: ControlPlane, store: Store, fleet: bytes, resolvers: Mapping[str, Resolver]) -> Retried:
    """Have open conflicts decided by their resolvers as they are now. One whose record was written since is left to a
    person: the resolver would decide about values that nobody shows any more.
    """
    decided: list[int] = []
    left: list[tuple[int, str]] = []
    with store.reading() as view:
        numbers = [row.number for row in _waiting(view, fleet, 0)]
    for number in reversed(numbers):  # of several about one field the last is about what is shown now
        reason = _retry(plane, store, fleet, resolvers, number)
        if reason is None:
            decided.append(number)
        else:
            left.append((number, reason))
    return Retried(sorted(decided), sorted(left))


def _retry(
    plane: ControlPlane, store: Store, fleet: bytes, resolvers: Mapping[str, Resolver], number: int
) -> str | None:
    """None, or why not."""
    with store.reading() as view:
        row = view.conflict(fleet, number)
        assert row is not None
        record = Held(view.lookup(fleet, row.collection, [row.key]).get(row.key)).record
    name = row.rule.removeprefix(PREFIX)
    if name not in resolvers:
        return f"no resolver {name!r} in cloud.toml"
    shown = record.values() if record.alive else {}
    winner = row.came if row.winner == "came" else row.held
    wanted = {row.field: winner.value} if row.field else ({} if winner.delete else winner.value)
    if record.alive == winner.delete or any(shown.get(field) != value for field, value in wanted.items()):
        return "the record was written since"
    try:
        value = resolvers[name](row.collection, row.key, row.field, row.held, row.came, {"record": shown})
        plane.resolve(fleet, number, take="value", value=value)
    except AgentDBError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - the operator's code may raise anything
        return f"{type(error).__name__}: {error}"
    return None
