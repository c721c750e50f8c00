"""What the demo shows: numbered chapters, sentences, tables, progress bars (plain lines when it is not a terminal)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 120
_INDENT = 3
Report = Callable[[dict[str, Any]], None]


class Screen:
    """``chapter`` counts; everything printed is escaped: texts of the corpus are data, not markup."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self._chapter = 0
        self._started = perf_counter()

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return perf_counter() - self._started

    def chapter(self, title: str, sentence: str) -> None:
        self._chapter += 1
        self.console.print(f"\n[bold cyan]{self._chapter}. {escape(title)}[/]  [dim]{self.seconds:.0f} s[/]")
        self._print(Text(sentence, style="italic"))

    def say(self, text: str) -> None:
        self._print(Text(text))

    def proved(self, text: str) -> None:
        """Something that was checked and holds."""
        self._print(Text.assemble(("✓ ", "green"), text))

    def failed(self, text: str) -> None:
        self.console.print(f"\n[bold red]The demo failed:[/] {escape(text)}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
        """Columns whose name begins with "#" are numbers and stand to the right."""
        table = Table(title=escape(title) or None, title_justify="left", pad_edge=False, box=None, padding=(0, 2, 0, 0))
        for column in columns:
            right = column.startswith("#")
            table.add_column(escape(column.lstrip("#")), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        self.console.print()
        self._print(table)

    def _print(self, shown: Text | Table) -> None:
        """Indented, continued lines too."""
        self.console.print(Padding(shown, (0, 0, 0, _INDENT), expand=False))

    @contextmanager
    def bars(self, *names: str) -> Iterator[dict[str, Report]]:
        """A bar for each name; what is yielded takes a child's progress reports, from any thread."""
        if not self.console.is_terminal:
            yield {name: self._plain_bar(name) for name in names}
            return
        columns = (TextColumn("   {task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            tasks = {name: progress.add_task(escape(name), total=None) for name in names}

            def report_of(name: str) -> Report:
                return lambda made: progress.update(tasks[name], completed=made["done"], total=made["total"] or 1)

            yield {name: report_of(name) for name in names}

    def _plain_bar(self, name: str) -> Report:
        """A line at each quarter."""
        quarters = 0
        lock = threading.Lock()

        def report(made: dict[str, Any]) -> None:
            nonlocal quarters
            reached = 4 * made["done"] // max(1, made["total"])
            with lock:
                if reached > quarters:
                    quarters = reached
                    self.say(f"{name}: {made['done']:,} of {made['total']:,}")

        return report


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.2f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} KB"
