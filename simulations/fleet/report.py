"""``docs/SIMULATION.md``, written from what the last sweep, mutants and scale printed: nobody types a figure."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from simulations.processes import ROOT
from sync.errors import NotFound

TARGET = ROOT / "docs" / "SIMULATION.md"
RESULTS = ROOT / "build" / "simulation"
SWEEP, MUTANTS, SCALE = "sweep", "mutants", "scale"
_HEAD = """# The simulator

A whole fleet in one process: the real `SyncSession`, `DeltaLog`, `ControlPlane`, `Archive`, signatures and ciphers;
around them virtual time, and networks, disks, clocks, machines and people that fail. One seed is one run, with one
trace hash, on any machine and with any `PYTHONHASHSEED`.

    python -m simulations run --seed 7                    # what it did, and whether everything held
    python -m simulations replay --seed 7 --trace         # the transcript
    python -m simulations sweep --seeds 0..999 --jobs 2   # many; each violation with the command that replays it
    python -m simulations sweep --random 100              # seeds that nobody chose (they are printed)
    python -m simulations sweep --scenario budgets        # links with limits; by name only, too: erasures, growth
    python -m simulations run --scenario metered          # a week over metered links, with figures
    python -m simulations run --scenario rollout          # a bad model and a good one to 2,000 devices, with figures
    python -m simulations sweep --scenario policies       # and models: what operators steer, and a hostile server
    python -m simulations mutants                         # bugs planted one by one: how many seeds until each is caught
    python -m simulations scale                           # 10, 100 and 1,000 devices
    python -m simulations report                          # this page, from the last results of those three

**What is real.** Real SQLite with its WAL, its index in shared memory and our page checksums, on a VFS of ours that
knows what was synced (`simulations/fleet/disk.py`): a database in memory would be faster and would not show what a
power cut leaves. The exact tier answers searches; LanceDB has threads of its own and stays outside
(`tests/contracts/test_vector_search_contract.py` holds both to one contract). What does not pass through SQLite (keys,
the matrix, LanceDB's files) is as durable as the code asked for; power cuts there are tested with real processes
([CRASH_TESTS](CRASH_TESTS.md)). HTTP is left out; the requests are signed and checked in a fifth of the runs.

**Operators** (`simulations/steered`; the scenarios `policies` and `models`, and a fifth of `everything`). They sign
policies and models offline, assign them, roll them out, pause, revert, and exchange a stolen key, while devices ask,
verify and activate by the product's own code, and die at any write of it. The server hands out, for a while, what is
old, another device's, mixed, another fleet's, cut or altered, or a thief signs with its online key. What a policy means
is read rule by rule from its document, not by the product's tables. Models are cut and sealed for real, and come by the
product's `ModelFetch` and `ModelStore`; probes are ours, and so is what a power cut leaves of a file that is no
database: of a slot that is not noted as staged, anything. The end asks for no eviction, only that nothing is lost by
one; conflicts are not compared in these runs, for who was out of scope has not seen what its cursor passed.

**Safety, then liveness.** While a run goes on, an oracle outside of the system remembers every acknowledged write with
the image that its writer had before it. Then everything is mended, and within two virtual hours all replicas have to
be equal and idle. What must hold, each with its name in a violation:

| name | what |
|---|---|
| nothing lost | every acknowledged operation is contained in the final state, unless a disaster took its last copy |
| nothing invented | the final state is no more than the join of what was written: each operation counts once |
| counted once | what was only ever counted up comes to at least what was promised (and to no more than was asked for) |
| acknowledged | what the log holds after a call is what was asked for |
| all or nothing | of a batch that was interrupted, or whose last write cannot be, nothing is left |
| causal order | a write's stamp is after all that its writer saw of the record |
| read your writes | a reader on the same device sees the write at once |
| never back | cursors do not go back over a restart, acknowledged seqs do not vanish |
| durable | what a session goes on from is what it would find after a crash at this moment |
| not from the future | no stamp in the feed, nor the fleet's clock, is further ahead than a clock may be |
| replicas equal | byte-equal images on all devices and the cloud |
| tombstones | what is deleted is forgotten only behind every device whose lease runs |
| conflicts recorded | a value that lost and that the winner's writer had not seen is in the conflict record, no other |
| refused rightly, dead letters | the cloud refuses only what it has to, and both ends keep what it refused |
| archive | a restore equals the state, now and at earlier positions; `verify` finds nothing. While an object is gone, \
exchanged or altered: what `verify` passes can be restored, and no restore ends in another state than there was |
| projection | a vector search finds exactly the living records |
| isolation | nothing of one fleet in another |
| revoked | a revoked device is answered nothing, joins with no token, and has no key of what is written from then on, \
also after a restore to before its revocation |
| no plaintext | no text on the wire or in the archive |
| signed, assigned, rolled back | what a device is to run, and the policy that holds, was signed offline, and given \
out to this very device; numbers, versions and floors do not go back, over any restart |
| activated | however a process has ended, the next one begins with the policy that was agreed |
| policy, scope | writes and agents are let through by the policy that holds, and by no other; no page has what is out \
of scope; only what must not be there leaves a device, and the cloud has all of it, after a restore too |
| one good model, refused | what is given out is whole, and so is what a soak returns to; once a version was kept, \
there always is one; what was returned from is not tried again |
| halted | a rollout that does not run exposes no further device; one that was reverted is given to nobody |
| verify, opens, typed errors, bounded | stores are whole, open after any crash, fail with typed errors, stay bounded |
| convergence | equal and idle within the stated time after the last repair |
"""


def keep(name: str, result: Any) -> None:
    """Note the result of a command for the report."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1))


def keep_each(name: str, results: list[dict[str, Any]], key: str, order: list[str]) -> None:
    """The same for a result that has parts, of which these were made anew."""
    known = {part[key]: part for part in [*(_read(name) or []), *results]}
    keep(name, [known[each] for each in order if each in known])


def write() -> Path:
    """What was not measured, the page says. Raises NotFound if there is not even a sweep."""
    results = {name: _read(name) for name in (SWEEP, MUTANTS, SCALE)}
    if results[SWEEP] is None:
        raise NotFound("there is no result of a sweep", hint="python -m simulations sweep")
    where = f"{os.cpu_count()} cores ({platform.system()} {platform.machine()}), Python {platform.python_version()}"
    parts = [
        _HEAD,
        f"The figures below were measured on {where}.\n",
        _sweep(results[SWEEP]),
        _missing("Planted bugs", MUTANTS) if results[MUTANTS] is None else _mutants(results[MUTANTS]),
        _missing("Growth", SCALE) if results[SCALE] is None else _scale(results[SCALE]),
    ]
    TARGET.write_text("\n".join(parts), encoding="utf-8")
    return TARGET.relative_to(ROOT)


def _read(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _share(part: int, whole: int) -> str:
    """100% is all of them, and nothing less."""
    return "100%" if part == whole else f"{part / whole:.2%}"


def _missing(title: str, name: str) -> str:
    return f"## {title}\n\nNot measured for this page: `python -m simulations {name}`.\n"


def _sweep(result: dict[str, Any]) -> str:
    seeds = result["seeds"]
    said = (
        f"`python -m simulations sweep --seeds {result['range']} --jobs {result['jobs']}`: "
        f"{result['violations']} violations; {result['converged']:,} of {seeds:,} runs converged "
        f"({_share(result['converged'], seeds)}), the slowest {result['heal_ms_max'] / 60_000:.0f} virtual minutes "
        f"after the last repair; {result['device_years']:.2f} virtual device-years in "
        f"{result['seconds'] / 60:.0f} minutes.\n"
    )
    rows = [
        f"## A sweep of {seeds:,} seeds\n",
        said,
        "| scenario | runs |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in result["scenarios"].items()),
        "",
        "| what happened | times |",
        "|---|---|",
        *(f"| {name} | {count:,} |" for name, count in result["counts"].items()),
        "",
    ]
    if result["failed"]:
        rows += ["Each is in the [ledger of bugs](BUGS_FOUND.md), by its seed, with the fix that came of it.", ""]
        rows += ["| seed | scenario | violation |", "|---|---|---|"]
        rows += [f"| {one['seed']} | {one['scenario']} | {one['violation']} |" for one in result["failed"]]
        rows.append("")
    return "\n".join(rows)


def _mutants(results: list[dict[str, Any]]) -> str:
    caught = sum(result["caught"] for result in results)
    rows = [
        f"## Planted bugs: {caught} of {len(results)} caught\n",
        "`python -m simulations mutants` replaces one text in one source file while Python imports it, and runs seeds",
        "from 0 on until an invariant does not hold. A run that ends in an error that nobody typed is no catch. For",
        "what no run of a fleet can show a test is named, and is run instead.\n",
        "| planted bug | file | seeds to catch | by | invariant |",
        "|---|---|---|---|---|",
    ]
    for result in sorted(results, key=lambda result: "test" in result):
        if "test" in result:
            verdict = "fails" if result["caught"] else "NOT CAUGHT"
            rows.append(f"| {result['mutant']} | `{result['path']}` |  | `{result['test']}` | {verdict} |")
            continue
        seeds = f"{result['seeds']:,}" if result["caught"] else f"not in {result['seeds']:,}"
        invariant = result.get("violation", "").split(":")[0]
        rows.append(
            f"| {result['mutant']} | `{result['path']}` | {seeds} | {result.get('scenario', '')} | {invariant} |"
        )
    return "\n".join(rows) + "\n"


def _scale(results: list[dict[str, Any]]) -> str:
    rows = [
        "## Growth\n",
        "`python -m simulations scale`: everybody joins, writes, syncs and sees what all others wrote.\n",
        "| devices | seconds | ms / device | growth of that | messages | operations written |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {one['devices']:,} | {one['seconds']} | {one['ms_per_device']} | {one['growth_per_device']} "
        f"| {one['messages']:,} | {one['operations']:,} |"
        for one in results
    ]
    return "\n".join(rows) + "\n"
