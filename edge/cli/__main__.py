"""``python -m edge.cli`` is ``agentdb-edge``."""

from __future__ import annotations

import sys

from edge.cli import main

if __name__ == "__main__":
    sys.argv[0] = "agentdb-edge"  # the name in messages, and in the store's lock
    main()
