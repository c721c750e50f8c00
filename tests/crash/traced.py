"""What the tests of crashes share: whether strace may be used here, and the command that they are about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from simulations.crash.strace import why_not
from simulations.processes import ROOT, environment

REASON = why_not()
needs_strace = pytest.mark.skipif(bool(REASON), reason=REASON)


def command(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulations.crash", *arguments],
        env={**environment(), "PATH": os.environ["PATH"] if path is None else path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def results(part: str) -> list[dict[str, Any]]:
    """What a short run of a part found; the seed is in the message if it was not well."""
    done = command(part, "--quick", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
