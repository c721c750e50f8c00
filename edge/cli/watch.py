"""What a person sees while a sync is under way: the first failure at once, then how it goes; nothing for machines.

All of it goes to standard error. On a terminal there are bars, and the lines stand above them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from edge.link.replicator import Progress

_LOOKS_S = 0.25
_QUIET_LOOKS = 12  # so many without a word from the other side are told
_REPEAT_LOOKS = 120  # between lines that say that nothing has changed
_MOVED_LOOKS = 20  # between lines about progress, where there are no bars


class Watch:
    """Give its ``told`` to ``Edge.sync``; a thread of its own does the telling, so that a silent network is told, too.

    ``until`` is when the sync gives up, as a person reads it; ``url`` is whom it asks.
    """

    def __init__(self, url: str, until: str, *, quiet: bool) -> None:
        self.last: Progress | None = None
        self._url = url
        self._until = until
        self._quiet = quiet
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="agentdb-watch", daemon=True)
        self._open = ExitStack()
        self._say: Callable[[str], None] = _to_stderr
        self._draw: Callable[[Progress], None] | None = None
        self._said = ""
        self._silent = self._since_said = 0

    def told(self, now: Progress) -> None:
        """Called by the sync whenever an answer or a failure came."""
        self.last = now

    def __enter__(self) -> Self:
        if not self._quiet:
            if sys.stderr.isatty():
                self._bars()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if not self._quiet:
            self._thread.join()
        self._open.close()

    def _look(self) -> None:
        before: Progress | None = None
        while not self._ended.wait(_LOOKS_S):  # an error that ends the sync is told by the command itself
            now = self.last
            self._silent = self._silent + 1 if now is before else 0
            self._since_said += 1
            if now is not None and now.error:
                self._tell_failure(now.error)
            elif now is None and self._silent == _QUIET_LOOKS:
                self._tell(f"no answer yet from {self._url}; trying until {self._until}, Ctrl-C stops, nothing is lost")
            elif now is not None:
                self._tell_progress(now, moved=before is None or now[:2] != before[:2])
            before = now

    def _tell_failure(self, error: str) -> None:
        if error != self._said:
            self._said = error
            self._tell(f"{error}; trying again until {self._until}, Ctrl-C stops, nothing is lost")
        elif self._since_said >= _REPEAT_LOOKS:
            self._tell(f"still trying, until {self._until}")

    def _tell_progress(self, now: Progress, *, moved: bool) -> None:
        if self._said:
            self._said = ""
            self._tell("connected again")
        if self._draw is not None:
            self._draw(now)
        elif moved and self._since_said >= _MOVED_LOOKS:
            total = (now.pushed + now.pending, now.pulled + now.behind)
            self._tell(f"{now.pushed:,} of {total[0]:,} pushed, {now.pulled:,} of {total[1]:,} pulled")

    def _tell(self, line: str) -> None:
        self._since_said = 0
        self._say(line)

    def _bars(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bars = self._open.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
        push, pull = bars.add_task("push", total=None), bars.add_task("pull", total=None)

        def draw(now: Any) -> None:
            bars.update(push, completed=now.pushed, total=now.pushed + now.pending)
            bars.update(pull, completed=now.pulled, total=now.pulled + now.behind)

        self._draw = draw
        self._say = lambda line: bars.console.print(escape(line), highlight=False)


def clock_time(at_ms: int, now_ms: int) -> str:
    """Of a moment on this machine's clock; with the date if it is not within a day."""
    try:
        return (
            datetime.fromtimestamp(at_ms / 1000)
            .astimezone()
            .strftime("%H:%M:%S" if at_ms - now_ms < 86_400_000 else "%Y-%m-%d %H:%M")
        )
    except (OverflowError, ValueError, OSError):
        return "it is stopped"


def _to_stderr(line: str) -> None:
    click.echo(line, err=True)
