"""Faults in what operators steer: what a device takes for signed, how a policy comes to hold, and what it then does."""

from __future__ import annotations

from simulations.mutants import Mutant

_ASSIGNMENTS = "sync/assignments.py"
_ACCEPTANCE, _POLICY, _SCOPES = "edge/control/acceptance.py", "edge/control/policy.py", "cloud/stream/scopes.py"
_SCOPING, _GROWING = "edge/storage/scoping.py", "sync/growing.py"
POLICIES = "policies"

MUTANTS = [
    Mutant(
        "old-assignment-taken",
        _ASSIGNMENTS,
        "    if found.number <= held:\n",
        "    if found.number < 0:\n",
        "a server takes a device back to what it ran before",
        scenario=POLICIES,
    ),
    Mutant(
        "assignment-of-another-device",
        _ASSIGNMENTS,
        "    if found.device != device.hex():\n",
        "    if len(found.device) != len(device.hex()):\n",
        "a server gives one device what was meant for another",
        scenario=POLICIES,
    ),
    Mutant(
        "floor-not-asked",
        _ASSIGNMENTS,
        "    if path.number < listed.floor and digest not in running:\n",
        "    if path.number < 0:\n",
        "who has the online key has a device run what the operators have given up",
        scenario=POLICIES,
    ),
    Mutant(
        "target-not-hashed",
        _ACCEPTANCE,
        "                data = fetch(target)\n                check_target(target, data)\n",
        "                data = fetch(target)\n",
        "a server has a device run other bytes than were signed",
        scenario=POLICIES,
    ),
    Mutant(
        "agreed-not-caught-up",
        _POLICY,
        "            self.activated([document] if document is not None else [])\n",
        "            tables.note()\n",
        "what was agreed right before a power cut never holds",
        scenario=POLICIES,
    ),
    Mutant(
        "not-obeyed-after-a-restart",
        _POLICY,
        "            keeps = True\n            self._obey(active)\n",
        "            keeps = True\n            self._obeys = active.row\n",
        "a device that has restarted writes where its policy has it write nothing",
        scenario=POLICIES,
    ),
    Mutant(
        "activated-without-its-scope",
        _POLICY,
        "    policy_row.store(log, row, lambda: rescope(log, _named(before), active.named))\n",
        "    policy_row.store(log, row)\n",
        "a policy that is activated does not change what is fetched",
        scenario=POLICIES,
    ),
    Mutant(
        "gone-policy-leaves-its-scope",
        _POLICY,
        "                policy_row.drop(self._log, lambda: rescope(self._log, _named(before), none.named))\n",
        "                policy_row.drop(self._log)\n",
        "what a policy kept away does not come when there is none any more",
        scenario=POLICIES,
    ),
    Mutant(
        "narrowing-waits-for-the-device",
        _SCOPES,
        "    return Filtered(Both(table, assigned[1]), narrowed=_loses(table, assigned[1]))\n",
        "    return Filtered(table, narrowed=False)\n",
        "a device that does not take up its new policy goes on getting what it may not have any more",
        scenario=POLICIES,
    ),
    Mutant(
        "narrowing-not-told",
        _SCOPES,
        "    return Filtered(Both(table, assigned[1]), narrowed=_loses(table, assigned[1]))\n",
        "    return Filtered(Both(table, assigned[1]), narrowed=False)\n",
        "a policy that was assigned and taken back before the device heard of it leaves a gap for good",
        scenario=POLICIES,
    ),
    Mutant(
        "growth-ends-early",
        _GROWING,
        "        after = Growth(of.scope, page.next, position.incarnation, gaps) if page.next else None\n",
        "        after = None\n",
        "of what comes into scope only the first page does",
        scenario=POLICIES,
    ),
    Mutant(
        "gains-not-looked-at",
        _SCOPING,
        "        if known is not None and not changed(known, table).gains and not back:\n",
        "        if known is not None:\n",
        "what comes into a device's scope is taken to be there",
        scenario=POLICIES,
    ),
]
