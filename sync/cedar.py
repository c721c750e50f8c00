"""Cedar: the text in a policy's [cedar], which may deny agents more than its [[agent]] tables do (ADR 24).

Devices decide by it; where a policy is made, it is only read, to find what no device would take. The only import of
cedarpy, an optional extra; 16 MB installed, some 40 ms. It decides over ``Agent::"name"``,
``Action::"read"`` or ``"write"`` and ``Collection::"name"``, without entities or context: never over keys. A question
takes it some 100 us, so whoever asks keeps the answer until the policy changes (``sync.permissions``).

What always holds: no answer is better than "no". A text that fails for a question denies it: Cedar itself passes over
a forbid that fails.
"""

from __future__ import annotations

from sync.errors import InvalidPolicy


class Cedar:
    """Raises InvalidPolicy: the text is not Cedar, or cedarpy is not installed here."""

    def __init__(self, text: str) -> None:
        try:
            import cedarpy  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise InvalidPolicy(
                "the policy has a [cedar] text, and cedarpy is not installed here", hint="the extra `cedar`, on devices"
            ) from error
        try:
            self._policies = cedarpy.PolicySet.from_str(text)
            self._entities = cedarpy.Entities.from_json_str("[]")
        except ValueError as error:
            raise InvalidPolicy(f"[cedar]: text is not Cedar: {error!s:.200}", hint="cedarpolicy.com") from error
        self._ask = cedarpy.is_authorized

    def decide(self, agent: str, action: str, collection: str) -> bool:
        request = {
            "principal": {"type": "Agent", "id": agent},
            "action": {"type": "Action", "id": action},
            "resource": {"type": "Collection", "id": collection},
            "context": {},
        }
        answer = self._ask(request, self._policies, self._entities)
        return bool(answer.allowed) and not answer.diagnostics.errors


def is_here() -> bool:
    """Whether cedarpy is installed."""
    try:
        import cedarpy  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True
