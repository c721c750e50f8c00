"""What a rehearsal answers to devices: that it is one.

A rehearsal is a copy of a fleet, with its keys, beside the control plane that goes on. A device that got to it would
push what the fleet then never sees, and pull what is older than what it has. So it takes nothing from devices and lets
none in, until it has an archive of its own (`agentdb-cloud archive move`). The answer is one after which a device tries
again: the control plane that it belongs to may be back at this address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cloud.ports import Caller
from sync.errors import Unreachable
from sync.messages import AnyMessage

HINT = "to keep it as a fleet of its own, give it an archive first: agentdb-cloud archive move {} URL"


class RehearsalPlane:
    """In the place of ``cloud.server.app.Plane``."""

    def handle(self, message: AnyMessage, caller: Caller | None) -> NoReturn:  # noqa: ARG002 - whatever it is
        raise Unreachable(
            "what listens there is a rehearsal of a restore, not the fleet's control plane",
            hint="nothing was sent or lost; check the address, or start the control plane there again",
        )

    def on_head(self, fleet: bytes, callback: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        return lambda: None  # its feed does not move
