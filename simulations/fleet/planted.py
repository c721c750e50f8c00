"""Planted bugs: each mutant is run until the simulator catches it. ``python -m simulations.fleet.planted NAME A..B``
hunts one, in a process of its own, and prints one JSON line.

A mutant is a text that is replaced in one source file, while Python imports it: nothing is written to the disk, and
what runs is the product's own code but for that text.

It counts as caught when an invariant says so, or the test that is named with it fails. A run that ends in an error
that nobody typed is noted, but is not a catch: it might be the mutant that crashes the simulator.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from simulations.mutants import Mutant
from simulations.mutants.catalogue import MUTANTS

ROOT = Path(__file__).parents[2]


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname) or ""
        if source.count(self._mutant.old) != 1:
            raise ImportError(f"mutant {self._mutant.name}: its text is not in {self.path} exactly once")
        return compile(source.replace(self._mutant.old, self._mutant.new), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.path.removesuffix(".py").replace("/", ".")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._mutant)
        return spec


def plant(mutant: Mutant) -> None:
    """From now on this process imports the mutated source; the module must not have been imported yet."""
    name = mutant.path.removesuffix(".py").replace("/", ".")
    assert name not in sys.modules, name
    sys.meta_path.insert(0, _Finder(mutant))


def hunt(mutant: Mutant, seeds: range) -> dict[str, Any]:
    """Run seeds until one catches it: ``seeds`` tried, the ``seed`` and ``violation`` that did, and how many runs were
    ``broken`` by errors of no type.
    """
    plant(mutant)
    from simulations.fleet.disk import mounted
    from simulations.fleet.fleet import run

    broken, found = 0, {"mutant": mutant.name, "path": mutant.path, "caught": False, "seeds": len(seeds)}
    with mounted():
        for tried, seed in enumerate(seeds, 1):
            outcome = run(seed, mutant.scenario)
            broken += outcome.broken
            if not outcome.held and not outcome.broken:
                found |= {"caught": True, "seeds": tried, "seed": seed, "scenario": outcome.plan.scenario}
                found["violation"] = outcome.violation
                break
    return found | {"broken": broken}


def try_test(mutant: Mutant) -> dict[str, Any]:
    """Whether the test that is named with the mutant fails with it."""
    plant(mutant)
    import pytest

    quiet = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = pytest.main([*quiet, str(ROOT / mutant.test)])
    broken = code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    caught = code == pytest.ExitCode.TESTS_FAILED
    return {"mutant": mutant.name, "path": mutant.path, "caught": caught, "test": mutant.test, "broken": int(broken)}


def by_name(name: str) -> Mutant:
    return next(mutant for mutant in MUTANTS if mutant.name == name)


if __name__ == "__main__":
    wanted = by_name(sys.argv[1])
    first, _, last = sys.argv[2].partition("..")
    print(json.dumps(try_test(wanted) if wanted.test else hunt(wanted, range(int(first), int(last) + 1))))
