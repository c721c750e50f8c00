"""What whoever brings a model's bytes is asked for (``ModelStore.connect``): which files, where, and from what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from edge.control.model_slots import Documents


class Installed(NamedTuple):
    """A version whose files are whole in ``folder``: where chunks may be taken from."""

    folder: Path
    documents: Documents


class Filling(NamedTuple):
    """What a ``Fill`` is asked for: the manifest's files in ``folder``, each chunk checked before it is written. What
    is there already may be right. ``stopped()``: give up, by returning; ``progress(done, total)``: chunks' bytes, told
    once the files have their whole size.
    """

    folder: Path
    documents: Documents
    installed: Sequence[Installed] = ()
    stopped: Callable[[], bool] = lambda: False
    progress: Callable[[int, int], None] = lambda _done, _total: None


Fill = Callable[[Filling], None]
Target = Callable[[str], bytes]
