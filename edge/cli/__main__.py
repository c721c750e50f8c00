"""``python -m edge.cli`` is ``agentdb-edge``."""

from __future__ import annotations

from edge.cli import main

if __name__ == "__main__":
    main(prog_name="agentdb-edge")
