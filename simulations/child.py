"""The child's side of ``simulations.processes``: answers JSON lines on stdin until they end.

A request is ``{"do": name, …arguments}``; the answer one line, ``{"result": …}`` or ``{"error": "code: message"}``.
What is not an error of the product ends the process with its traceback: the parent shows it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sync.errors import AgentDBError


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say({"result": handlers[request.pop("do")](**request)})
        except AgentDBError as error:
            say({"error": f"{error.code}: {error}"})


def progress(done: int, total: int, what: str = "") -> None:
    """Tell the parent how far it is; the request is still under way."""
    say({"progress": {"done": done, "total": total, "what": what}})


def say(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
