"""``agentdb-edge``: a device's store from the command line.

Tables are for people; ``--json`` gives one JSON document on standard output (bytes as ``{"$base64": …}``), and of a
failure one on standard error. A mistake of the user's is one line and a hint, exit 2; a failure of disk or network, or
something that ``verify`` found, exit 1; neither shows a stack trace. One process writes to a store at a
time: commands that write wait two seconds for it (``--wait``), those that only read need not.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import click

from edge.cli.attachments import attachments
from edge.cli.cache import cache
from edge.cli.care import maintain, snapshot, status, verify
from edge.cli.collections import collection
from edge.cli.documents import documents
from edge.cli.erasing import erase, erasures
from edge.cli.fleet import init, run, sync
from edge.cli.hints import for_the_shell
from edge.cli.memory import memory
from edge.cli.models import models
from edge.cli.output import say_error
from edge.cli.policy import policy
from edge.cli.records import add, delete, get, increment, patch, put, remove, scan, search
from edge.cli.state import export, state
from edge.cli.stores import STORE
from edge.cli.trust import trust
from edge.cli.twin import twin
from edge.cli.vectors import vectors
from sync.errors import AgentDBError, InputError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # the store's own are AgentDBErrors


class _Main(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentDBError as error:
            say_error(ctx, error.code, error.message, for_the_shell(error, ctx.meta.get(STORE, "STORE")))
            ctx.exit(2 if isinstance(error, InputError) else 1)
        except OSError as error:
            if error.filename is not None or error.errno not in _UNWRITABLE:
                raise  # not the output, or a closed pipe: click ends quietly then
            say_error(ctx, "output", f"the output cannot be written: {error.strerror}", "is the disk full?")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again at its end, and show a stack trace
            ctx.exit(1)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agentdb-edge")
def main() -> None:
    """Keep, search and sync an agent's state on this device.

    Exit codes: 0 done; 1 disk, network or the other side failed, another process writes to the store, or `verify` or
    `status` found something; 2 a mistake in what was typed, or nothing of that name; 130 `sync` was interrupted.
    """


for command in (
    *(init, collection, put, patch, increment, add, remove, delete, get, scan, search),
    *(state, memory, documents, vectors, attachments, export, erase, erasures, cache),
    *(twin, policy, trust, models),
    *(sync, run, status, verify, maintain, snapshot),
):
    main.add_command(command)
