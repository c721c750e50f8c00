"""What the device that asks is to run, decided once for each look at the store, however many want to know it: the scope
of a page (``cloud.fleet.policies``), and the number of the assignment that the page names.

What always holds: an answer is of the view that it was asked for, and of the device that asks.
"""

from __future__ import annotations

from functools import cached_property
from threading import local

from cloud.fleet import choices, exposing
from cloud.fleet.choices import Choice
from cloud.fleet.trusting import Trusting
from cloud.ports import Caller, Reading
from cloud.rows import DeviceRow
from cloud.twin_rows import TwinRow


class Decided:
    """Of one device; valid within the block of its view."""

    def __init__(self, view: Reading, device: DeviceRow) -> None:
        self.device = device
        self._view = view

    @cached_property
    def places(self) -> dict[str, Choice]:
        return choices.places_of(self._view, self.device, self._rolled)

    @cached_property
    def twin(self) -> TwinRow:
        """With what it is to be told. Raises TooLarge as ``exposing.desired``."""
        return self._rolled.twin()

    @cached_property
    def _rolled(self) -> exposing.Decision:
        return exposing.Decision(self._view, self.device)


class Choosing:
    """Of one control plane. Safe to use from several threads."""

    def __init__(self) -> None:
        self.trusting = Trusting()
        self._last = local()

    def decided(self, view: Reading, caller: Caller) -> Decided | None:
        """None in a fleet without trust, and for a device that is not of it. The view is one that does not write: what
        was decided in it stays true.
        """
        held: tuple[Reading, Caller, Decided | None] | None = getattr(self._last, "held", None)
        if held is None or held[0] is not view or held[1] != caller:
            device = view.device(caller.device) if view.control(caller.fleet) else None
            held = self._last.held = (view, caller, Decided(view, device) if device is not None else None)
        return held[2]

    def policy(self, view: Reading, caller: Caller) -> bytes:
        """The SHA-256 of what it is to run in the place "policy" now, whether or not it has asked for it since; b"" for
        nothing. Raises as ``Trusting.load``.
        """
        decided = self.decided(view, caller)
        choice = decided.places.get(choices.POLICY) if decided is not None else None
        return self.trusting.load(view, caller.fleet).target(choice.path).sha256 if choice is not None else b""
