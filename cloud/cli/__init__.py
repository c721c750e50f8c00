"""``agentdb-cloud``: the control plane from the command line.

Tables are for people; ``--json`` gives one JSON document on standard output for machines. A mistake of the user's is
one line and a hint, exit 2; a failure of something else (disk, archive, network) the same with exit 1; neither shows a
stack trace.

All commands may be used while the server runs (SQLite's readers disturb nobody; writes are transactions; the archive is
written by one process at a time), except that a device learns of a conflict that was decided here at its next poll,
not at once. ``restore`` makes a new directory and needs no server at all.
"""

from __future__ import annotations

import json
from typing import Any

import click

from cloud.cli import policy_publish as _policy_publish  # noqa: F401 - it adds commands to ``policy``
from cloud.cli.archive import archive, restore
from cloud.cli.conflicts import conflicts
from cloud.cli.fleet import audit, devices, init, token
from cloud.cli.models import models
from cloud.cli.outcomes import outcomes
from cloud.cli.output import JSON
from cloud.cli.policy import policy
from cloud.cli.publish import assign, assignments, publish
from cloud.cli.rollouts import rollouts
from cloud.cli.server import serve, status
from cloud.cli.trust import trust
from cloud.cli.twins import groups, labels, twins
from sync.errors import AgentDBError, InputError, SyncError


class _Main(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AgentDBError as error:
            if ctx.meta.get(JSON):
                text = json.dumps({"error": error.code, "message": error.message, "hint": error.hint})
                click.echo(text, err=True)
            else:
                click.echo(f"error: {error.message}", err=True)
                if error.hint:
                    click.echo(f"hint: {error.hint}", err=True)
            ctx.exit(2 if isinstance(error, InputError | SyncError) and not error.retryable else 1)


_EPILOG = (
    "Exit codes: 0 done; 1 something failed or was found wrong (disk, archive, network; archive verify, audit; status"
    " while archiving fails); 2 a mistake in the command, the configuration or a name."
)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="agentdb-edge")
def main() -> None:
    """Run and steer the control plane of a fleet."""


for command in (
    *(init, serve, token, devices),
    *(trust, policy, models),
    *(twins, labels, groups, rollouts),
    *(publish, assign, assignments, outcomes),
    *(conflicts, archive, restore, status, audit),
):
    main.add_command(command)
