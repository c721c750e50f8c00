"""Handles of agents ask the policy at each call: whether the agent may read, or write, what is its own (ADR 24).

It keeps order among agents of one process; it is no sandbox: ``edge.collection()`` is the device's owner's and asks
nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from operator import attrgetter
from typing import Any, TypeVar

Handle = TypeVar("Handle")


def permitted(store: str, shelf: str, *, reads: str, writes: str) -> Callable[[type[Handle]], type[Handle]]:
    """A handle's class whose methods ask for ``agent.<store>`` before they do anything: they raise NotAllowed.
    ``reads`` and ``writes`` name them; ``shelf`` is the attribute that has the shelf, ``agent`` has the agent's name.
    """
    shelf_of = attrgetter(shelf)

    def asking(cls: type[Handle]) -> type[Handle]:
        for action, names in (("read", reads), ("write", writes)):
            for name in names.split():
                setattr(cls, name, _asking(getattr(cls, name), shelf_of, action, f"agent.{store}"))
        return cls

    return asking


def _asking(method: Callable[..., Any], shelf_of: Callable[[Any], Any], action: str, store: str) -> Callable[..., Any]:
    @wraps(method)
    def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
        shelf_of(self).check_allowed(self.agent, action, store)
        return method(self, *args, **kwargs)

    return asked
