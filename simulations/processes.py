"""Child processes of the benchmarks and the demo: started, asked in JSON lines, always ended.

A child is asked one thing at a time: a line on its stdin, any number of ``{"progress": …}`` lines back, then one line
with ``result`` or ``error``. What it writes to stderr is kept in a file and shown when it fails. Every child lives in a
session of its own, so that Ctrl-C reaches this process only, which then ends them in order (``Children``).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar

ROOT = Path(__file__).resolve().parents[1]
STOP_S_MAX = 10.0
_STDERR_SHOWN = 2_000
T = TypeVar("T")
OnProgress = Callable[[dict[str, Any]], None]


class ChildFailed(Exception):
    """A child process refused, broke or ended; the message holds what it said."""


def environment() -> dict[str, str]:
    """Bytecode may be written (else every start compiles everything anew), and this checkout comes first."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    env["PYTHONUNBUFFERED"] = "1"
    return env


class Child:
    """``command`` follows the interpreter; ``log`` receives its stderr."""

    def __init__(self, name: str, command: Sequence[str], log: Path, extra: dict[str, str] | None = None) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**environment(), **(extra or {})},
                start_new_session=True,
                text=True,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._busy = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, do: str, *, answer_s: float = 120.0, on_progress: OnProgress | None = None, **arguments: Any) -> Any:
        """What the child answers. Raises ChildFailed."""
        with self._busy:
            assert self.process.stdin is not None
            try:
                self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
                self.process.stdin.flush()
            except OSError as error:
                raise self._failed(f"has ended ({error.strerror})") from error
            while True:
                line = self.line(answer_s)
                if "progress" in line:
                    if on_progress is not None:
                        on_progress(line["progress"])
                elif "error" in line:
                    raise ChildFailed(f"{self.name}: {line['error']}")
                else:
                    return line.get("result")

    def line(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """The next line that the child prints, as JSON."""
        text = self.text_line(timeout_s)
        try:
            value: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise self._failed(f"printed {text!r:.200}") from error
        return value

    def text_line(self, timeout_s: float = 60.0) -> str:
        """The next line that the child prints. Raises ChildFailed if it ends or stays silent."""
        try:
            text = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise self._failed(f"said nothing for {timeout_s:.0f} s") from None
        if not text:
            raise self._failed("has ended")
        return text.rstrip("\n")

    def stop(self) -> None:
        """Ask it to end (SIGTERM); insist if it does not. Idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close()

    def kill(self) -> None:
        """As a power cut would: no goodbye."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_S_MAX)
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # a line it never read was still in the buffer

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                self._lines.put(line)
        except ValueError:
            return  # closed by ``_close``
        self._lines.put("")

    def _failed(self, what: str) -> ChildFailed:
        said = self._log.read_text(errors="replace")[-_STDERR_SHOWN:].strip()
        return ChildFailed(f"{self.name} {what}" + (f"; it said:\n{said}" if said else ""))


class Children:
    """A context that ends every child it started, the last first, whatever happens; SIGTERM counts as Ctrl-C."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []
        self._before: Any = None

    def start(self, name: str, *command: str, extra: dict[str, str] | None = None) -> Child:
        """What interrupts meanwhile does so once the child is known to whoever ends it."""
        came: list[int] = []
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if in_main else None
        try:
            child = Child(name, command, self._logs / f"{name}.log", extra)
            self._children.append(child)
        finally:
            if in_main:
                signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt
        return child

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        with ThreadPoolExecutor(max(1, len(self._children))) as pool:
            list(pool.map(Child.stop, reversed(self._children)))
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def together(*actions: Callable[[], T]) -> list[T]:
    """Run the actions at the same time; their results in order. Raises the first error, after all have ended."""
    with ThreadPoolExecutor(len(actions)) as pool:
        futures = [pool.submit(action) for action in actions]
    return [future.result() for future in futures]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
