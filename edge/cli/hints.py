"""Hints in the shell's words: an error's own hint may speak of the Python call that a command stands for."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from sync.errors import AgentDBError

NOT_JOINED_HINT = "agentdb-edge init STORE --join TOKEN"  # as ``edge.link.membership`` says it

_NO_KEYS = (
    "put the keys directory back from a snapshot or a backup; without it, make another store: "
    "agentdb-edge init STORE --join TOKEN"
)
# What an error's hint begins with -> what to type instead.
_INSTEAD = {
    "another name, or edge.agent": "another name, or open it again: agentdb-edge erasures STORE --lift AGENT; of a "
    "namespace with --namespace NAME",
    "edge.erasures() lists them": "agentdb-edge erasures STORE lists them; of a namespace that was erased by its name: "
    "--namespace NAME",
    "all() lists what there is": "`list` in the place of this command lists what there is",
    "edge.snapshots.all() lists them": "agentdb-edge state snapshots STORE lists them",
    "thread.get() reads it": "agentdb-edge state get STORE AGENT THREAD --json shows it; put again with --expected ID",
    "thread.history() lists them": "agentdb-edge state history STORE AGENT THREAD lists them",
    "keep_latest=": "--keep-latest 100, --keep-days 30, or both",
    "vectors(space, dimension=…)": "agentdb-edge vectors list STORE AGENT lists the spaces; the first upsert makes one",
    "one of the two: radius=": "--radius or --min-score",
    "put a snapshot in its place": "move the directory away; put a copy made by `agentdb-edge snapshot` in its place, "
    "or begin with `agentdb-edge init STORE --join TOKEN`: what had been synced comes back from the fleet",
    "restore the keys directory": _NO_KEYS,
    "one process writes to a store at a time": "close it there first, or wait for it: --wait SECONDS; commands that "
    "only read work meanwhile; a program that has it open syncs by itself with edge.start_sync(), without "
    "`agentdb-edge run`",
    "give the embedder of that model": "name that model by --embedder-…, or none; `reembed` goes over to another one",
    "embedder=, where the store is got": "--embedder-url, --embedder-model and --embedder-dimensions name one; "
    "--mode text needs none",
    "create a new device key": "a store's key is for life: make another store, agentdb-edge init STORE --join TOKEN, "
    "with a new token from the fleet's operator",
}


def for_the_shell(error: AgentDBError, store: str = "STORE") -> str:
    """``store`` is what was typed for it, where that is what the hint means."""
    if error.hint == NOT_JOINED_HINT:
        return error.hint.replace("STORE", shlex.quote(store))
    for start, instead in _INSTEAD.items():
        if error.hint.startswith(start):
            return instead
    return error.hint


@contextmanager
def hinting(kind: type[AgentDBError], hint: str) -> Iterator[None]:
    """Errors of this kind carry this hint instead of their own."""
    try:
        yield
    except kind as error:
        raise type(error)(error.message, hint=hint) from error
