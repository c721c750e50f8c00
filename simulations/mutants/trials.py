"""Faults in how models come, are tried, kept and returned from, and in whom rollouts give them to."""

from __future__ import annotations

from simulations.mutants import Mutant

_ACTIVATION, _STORE, _KEEPER = "sync/activation.py", "edge/control/model_store.py", "edge/control/model_keeper.py"
_SLOTS, _CHUNKS, _EXPOSING = "edge/control/model_slots.py", "edge/control/chunk_files.py", "cloud/fleet/exposing.py"
MODELS = "models"

MUTANTS = [
    Mutant(
        "fills-the-slot-in-use",
        _ACTIVATION,
        "    return SLOTS[active is not None and active.slot == SLOTS[0]]\n",
        "    return SLOTS[active is not None and active.slot != SLOTS[0]]\n",
        "the next version is written over the one that is given out",
        scenario=MODELS,
    ),
    Mutant(
        "switched-before-it-is-tried",
        _ACTIVATION,
        "    return note._replace(state=STAGED, tries=0), [Try()]\n",
        "    rest = _at_rest(note)._replace(active=note.candidate, previous=note.active, tries=1)\n"
        "    return rest._replace(state=SOAKING), [Tell()]\n",
        "a model that does not load is given out",
        scenario=MODELS,
    ),
    Mutant(
        "refusal-not-kept",
        _KEEPER,
        "            self.tables.commit(name, note, refusals, self._clock.wall_ms())\n",
        "            self.tables.commit(name, note, [], self._clock.wall_ms())\n",
        "what was returned from is tried again with the next assignment",
        scenario=MODELS,
    ),
    Mutant(
        "deaths-not-counted",
        _ACTIVATION,
        "    return note._replace(state=TRYING, tries=min(note.tries + 1, TRIES_MAX)), [Probe(note.candidate)]\n",
        "    return note._replace(state=TRYING), [Probe(note.candidate)]\n",
        "a model that brings its device down brings it down for ever",
        scenario=MODELS,
    ),
    Mutant(
        "previous-slot-emptied-too-soon",
        _ACTIVATION,
        "    return soaked, [Tell(), *actions]\n",
        "    return soaked, [Tell(), *actions, *([Empty(note.active.slot)] if note.active else [])]\n",
        "what a soak would return to is gone",
        scenario=MODELS,
    ),
    Mutant(
        "torn-files-taken-for-whole",
        _SLOTS,
        "            elif hashed and not _is_right(folder / name, file, documents.chunks):\n",
        "            elif not hashed and not _is_right(folder / name, file, documents.chunks):\n",
        "what a power cut has left of a file passes for the model",
        scenario=MODELS,
    ),
    Mutant(
        "errors-of-a-soak-not-counted",
        _ACTIVATION,
        "    if counted and note.errors > rules.errors_share_max * note.uses:\n",
        "    if counted and note.errors > note.uses:\n",
        "a model that fails in use is kept",
        scenario=MODELS,
    ),
    Mutant(
        "return-leaves-none",
        _ACTIVATION,
        "active=note.previous, previous=None, returned=note.active, why=why)\n",
        "active=None, previous=None, returned=note.active, why=why)\n",
        "a model that fails in its soak leaves the device without any",
        scenario=MODELS,
    ),
    Mutant(
        "assigned-not-told-after-a-crash",
        "edge/control/trust.py",
        "        return [one for one in self.tables.documents(places) if _is_sound(one)]\n",
        "        return []\n",
        "a power cut between what was agreed and what is begun: the model never comes",
        scenario=MODELS,
    ),
    Mutant(
        "paused-still-exposes",
        _EXPOSING,
        "        if row.state not in (RUNNING, DONE, SETTLED):\n",
        '        if row.state not in (RUNNING, DONE, SETTLED, "paused"):\n',
        "a rollout that was paused, by hand or by a restore, goes to more devices",
        scenario=MODELS,
    ),
]
