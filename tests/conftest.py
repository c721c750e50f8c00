"""What every test run shares: Hypothesis profiles, one seed per run, and a header that names them.

``HYPOTHESIS_PROFILE`` chooses ``dev`` (default: few examples, remembers failures in ``.hypothesis``) or
``ci`` (what ``.ci/run`` uses: one seed per run, printed first and again on failure, replayed by
``pytest --hypothesis-seed=<seed>``). Neither has a deadline: the machines are shared.

A test whose law deserves more than the usual number of examples asks for it, and gets 5,000 under ``ci``::

    @settings.get_profile("laws")
    @given(...)
    def test_merging_is_commutative(...): ...

(and a state machine by ``TestX.settings = settings.get_profile("laws")``). Where drawing an example takes longer than
the law, it asks for ``"costly laws"``: 1,000.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Verbosity, settings

if TYPE_CHECKING:
    from tests.edge.control.fetch_world import FetchWorld

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
CI = PROFILE == "ci"

_shared = settings(
    deadline=None,
    print_blob=True,
    verbosity=Verbosity.normal,
    suppress_health_check=[HealthCheck.too_slow],  # a neighbour on the machine is not a bad strategy
)
settings.register_profile("dev", parent=_shared, max_examples=50)
settings.register_profile("ci", parent=_shared, max_examples=100)
settings.register_profile("laws", parent=_shared, max_examples=5_000 if CI else 200)
settings.register_profile("costly laws", parent=_shared, max_examples=1_000 if CI else 100)
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw the run's seed before Hypothesis looks for one; xdist hands it to its workers as an option."""
    if CI and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    """Say what a failing run would need to be repeated."""
    seed = config.option.hypothesis_seed or "per test"
    return f"agentdb-edge: {platform.system()} {platform.machine()}, hypothesis {PROFILE}, seed {seed}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """After a failure, print the one command that repeats this run's examples."""
    seed = config.option.hypothesis_seed
    if seed is not None and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(
            f"repeat these examples: HYPOTHESIS_PROFILE={PROFILE} pytest --hypothesis-seed={seed} <test>"
        )


@pytest.fixture
def fetched_from(tmp_path: Path) -> Iterator[FetchWorld]:
    """A fleet whose server gives out what a device fetches of models."""
    from tests.edge.control.fetch_world import FetchWorld

    world = FetchWorld(tmp_path)
    with world.server:
        yield world
    world.close()
