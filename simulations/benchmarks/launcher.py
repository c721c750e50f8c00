"""Starts processes and measures them from outside: wall time and peak resident memory (``wait4``).

Run as a script, under ``-S``, so that it stays smaller than anything it starts: Linux carries the peak of the memory
that a process was forked from over into the process's own figure, so a large parent would report itself.

stdin: ``{"rounds": n, "commands": [[…], …]}``; stdout: for each command its list of [wall ms, peak MB].
"""

import json
import os
import sys
from time import perf_counter

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere


def run(command: list[str]) -> list[float]:
    started = perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status, usage = os.wait4(pid, 0)
    wall_ms = (perf_counter() - started) * 1000
    if status:
        sys.exit(f"{' '.join(command)} failed: exit code {os.waitstatus_to_exitcode(status)}")
    return [wall_ms, usage.ru_maxrss * _RSS_UNIT / 1e6]


def main() -> None:
    request = json.load(sys.stdin)
    results: list[list[list[float]]] = [[] for _ in request["commands"]]
    for _ in range(request["rounds"]):
        for place, command in enumerate(request["commands"]):
            results[place].append(run(command))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
