"""A metered link over real HTTP: what is counted is what went through the sockets, and what the budget does not let
through waits, is shown, and goes later.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner

from edge import AsyncEdge, BodyNotHere, Deferred, Edge, EdgeConfig
from edge.cli import main
from edge.storage.budget_rows import BudgetRows
from simulations.control_plane import Proxy
from simulations.processes import Children
from sync.budgets import LinkLimits
from sync.lanes import BULK, CONTROL, NORMAL, URGENT
from tests.contracts.body_world import PATIENCE_S, BodyWorld, attachments, some_bytes, world

__all__ = ["world"]

METERED = LinkLimits("metered", 4_000_000, 0, 262_144, 0.2, (URGENT, NORMAL, BULK))


def metered(world: BodyWorld, name: str, *limits: LinkLimits, url: str = "", link_class: str = "metered") -> Edge:
    """A device that has joined, opened with these limits."""
    if not (world.directory / name).exists():
        world.device(name).close()
    config = EdgeConfig(sync_url=url or world.server.url, links=limits, sync_link_class=link_class)
    return Edge.open(world.directory / name, config=config)


def used(edge: Edge) -> dict[str, int]:
    rows = BudgetRows(edge.log).load("metered")
    return rows[max(rows)] if rows else {}


def sync_until_deferred(edge: Edge) -> None:
    """Write and sync until the day is used up."""
    notes = edge.collection("notes")
    for number in range(100):
        notes.put(f"n{number}", {"body": some_bytes(20_000, number).hex()})
        edge.sync(timeout_s=PATIENCE_S)


def test_what_is_counted_is_what_went_through_the_sockets_and_not_much_more(world: BodyWorld) -> None:
    with Children(world.directory) as children:
        proxy = Proxy(children, "proxy", int(world.server.url.rpartition(":")[2]))
        with metered(world, "a", METERED, url=proxy.url) as edge:
            _count(edge, proxy)


def _count(edge: Edge, proxy: Proxy) -> None:
    notes = edge.collection("notes")
    for number in range(10):
        notes.put(f"n{number}", {"body": some_bytes(20_000, number).hex()})
        edge.sync(timeout_s=PATIENCE_S)
    attachments(edge).add(some_bytes(300_000), id="photo")
    edge.sync(timeout_s=PATIENCE_S)
    counts = proxy.counts()
    through = counts["up"] + counts["down"]
    told = sum(used(edge).values())
    requests = 11 * 3 + 3
    assert through <= told <= through + requests * 200
    assert used(edge)[BULK] > 300_000
    assert used(edge)[CONTROL] < 50_000


def test_without_limits_nothing_is_noted(world: BodyWorld) -> None:
    with metered(world, "a", METERED, link_class="wifi") as edge:
        edge.collection("notes").put("n", {"x": 1})
        edge.sync(timeout_s=PATIENCE_S)
        assert used(edge) == {}
        assert edge.status()["deferred"] == []
        assert edge.status()["budget"] is None


def test_a_day_that_is_used_up_is_so_after_a_restart_and_says_what_waits(world: BodyWorld) -> None:
    limits = METERED._replace(bytes_per_day=600_000)
    with metered(world, "a", limits) as edge:
        with pytest.raises(Deferred, match="budget"):
            sync_until_deferred(edge)
        assert sum(used(edge).values()) <= 600_000
    with metered(world, "a", limits) as edge:
        with pytest.raises(Deferred, match="budget"):
            edge.sync(timeout_s=PATIENCE_S)
        assert sum(used(edge).values()) <= 600_000
        (row,) = edge.status()["deferred"]
        assert (row["lane"], row["records"], row["why"]) == (NORMAL, 1, "budget")
        assert row["bytes"] > 20_000
        assert row["until_ms"] % 86_400_000 == 0
        edge.link_class = "wifi"
        edge.sync(timeout_s=PATIENCE_S)
        assert edge.status()["deferred"] == []


def test_status_says_where_the_day_stands(world: BodyWorld) -> None:
    limits = METERED._replace(bytes_per_day=600_000)
    with metered(world, "a", limits) as edge:
        untouched = edge.status()["budget"]
        assert untouched["used"] == {}
        assert untouched["left"] == {URGENT: 600_000, NORMAL: 480_000, BULK: 360_000}
        with pytest.raises(Deferred, match="budget"):
            sync_until_deferred(edge)
        told = edge.status()["budget"]
        assert (told["link_class"], told["bytes_per_day"], told["used"]) == ("metered", 600_000, used(edge))
        assert told["left"][NORMAL] == 480_000 - told["used"][NORMAL] < 50_000
        assert told["left"][BULK] == 0 < told["left"][URGENT]
        assert told["until_ms"] % 86_400_000 == 0
        assert told["until_ms"] == edge.status()["deferred"][0]["until_ms"]
    store = world.directory / "a"
    (store / "edge.toml").write_text(
        '[sync]\nlink_class = "metered"\n[[link]]\nclass = "metered"\nbytes_per_day = 600_000\n'
    )
    said = json.loads(CliRunner().invoke(main, ["status", str(store), "--json"]).output)
    assert said["budget"] == told, "what was noted ahead was given back as the store was closed"
    text = CliRunner().invoke(main, ["status", str(store)]).output
    assert f"{sum(told['used'].values()):,} of 600,000 bytes of the day's on 'metered' are used" in text
    with metered(world, "a", limits._replace(lanes=(URGENT,))) as edge:
        assert edge.status()["budget"]["left"].keys() == {URGENT}


def test_what_is_urgent_goes_on_with_the_share_that_is_kept_free(world: BodyWorld) -> None:
    limits = METERED._replace(bytes_per_day=600_000)
    with metered(world, "a", limits) as edge:
        alarms = edge.collection("alarms")
        edge._link.rules.priority = lambda collection, _key, _fields: URGENT if collection == "alarms" else NORMAL
        with pytest.raises(Deferred):
            sync_until_deferred(edge)
        edge.link_class = "wifi"
        edge.sync(timeout_s=PATIENCE_S)
        edge.link_class = "metered"
        alarms.put("fire", {"floor": 3})
        edge.sync(timeout_s=PATIENCE_S)
        assert used(edge)[URGENT] > 0
        assert edge.log.acked_seq == edge.log.head_seq


def test_a_class_without_bulk_carries_records_and_keeps_attachments_for_another(world: BodyWorld) -> None:
    with metered(world, "a", METERED._replace(lanes=(URGENT, NORMAL))) as edge:
        attachments(edge).add(some_bytes(30_000), id="photo")
        with pytest.raises(Deferred, match="attachments"):
            edge.sync(timeout_s=PATIENCE_S)
        assert edge.log.acked_seq == edge.log.head_seq
        (row,) = edge.status()["deferred"]
        assert row == {"lane": BULK, "records": 1, "bytes": 30_000, "why": "class", "until_ms": 0}
        edge.link_class = lambda: "wifi"
        edge.sync(timeout_s=PATIENCE_S)
        assert edge.status()["deferred"] == []


def test_a_body_that_no_day_can_carry_costs_nothing(world: BodyWorld) -> None:
    with metered(world, "a", METERED._replace(bytes_per_day=600_000)) as edge:
        attachments(edge).add(some_bytes(1_200_000), id="photo")
        for _ in range(3):
            with pytest.raises(Deferred, match="size"):
                edge.sync(timeout_s=PATIENCE_S)
        assert used(edge).get(BULK, 0) == 0
        assert edge.status()["deferred"][0]["why"] == "size"


def test_reading_an_attachment_that_the_budget_does_not_let_through_says_so(world: BodyWorld) -> None:
    with world.device("b") as writer:
        attachments(writer).add(some_bytes(1_200_000), id="photo")
        writer.sync(timeout_s=PATIENCE_S)
    with metered(world, "a", METERED._replace(bytes_per_day=600_000)) as edge:
        edge.sync(timeout_s=PATIENCE_S)
        with pytest.raises(BodyNotHere, match="size"):
            attachments(edge).read("photo")
        edge.link_class = "wifi"
        assert attachments(edge).read("photo") == some_bytes(1_200_000)


def test_a_body_in_slices_is_whole_both_ways_at_a_slow_rate(world: BodyWorld) -> None:
    limits = LinkLimits("metered", 0, 2_000_000, 65_536)  # the tests' server waits a second for a request
    data = some_bytes(1_500_000)
    with metered(world, "a", limits) as edge:
        attachments(edge).add(data, id="photo")
        edge.sync(timeout_s=PATIENCE_S)
    with metered(world, "b", limits) as edge:
        edge.sync(timeout_s=PATIENCE_S)
        assert attachments(edge).read("photo") == data


def test_a_live_link_goes_on_when_the_class_changes(world: BodyWorld) -> None:
    limits = METERED._replace(bytes_per_day=600_000, urgent_share=0.0)
    with metered(world, "a", limits) as edge:
        edge.start_sync()
        notes = edge.collection("notes")
        for number in range(30):
            notes.put(f"n{number}", {"body": some_bytes(20_000, number).hex()})
        with pytest.raises(Deferred, match="budget"):
            edge.sync(timeout_s=PATIENCE_S)
        assert sum(used(edge).values()) <= 600_000
        assert any(row["why"] == "budget" for row in edge.status()["deferred"])
        edge.link_class = "wifi"
        edge.sync(timeout_s=PATIENCE_S + 60)
        assert edge.log.acked_seq == edge.log.head_seq


def test_a_live_link_says_why_attachments_wait(world: BodyWorld) -> None:
    with metered(world, "a", METERED._replace(lanes=(URGENT, NORMAL))) as edge:
        edge.start_sync()
        attachments(edge).add(some_bytes(30_000), id="photo")
        with pytest.raises(Deferred, match="attachments"):
            edge.sync(timeout_s=PATIENCE_S)
        assert edge.log.acked_seq == edge.log.head_seq


def test_status_shows_what_waits_to_whoever_only_reads(world: BodyWorld) -> None:
    with metered(world, "a", METERED) as edge:
        edge.collection("notes").put("n", {"x": 1})
    store = world.directory / "a"
    (store / "edge.toml").write_text('[sync]\nlink_class = "sat"\n[[link]]\nclass = "sat"\nlanes = ["urgent"]\n')
    told = json.loads(CliRunner().invoke(main, ["status", str(store), "--json"]).stdout)
    (row,) = told["deferred"]
    assert (row["lane"], row["records"], row["why"], row["until_ms"]) == (NORMAL, 2, "class", 0)
    table = CliRunner().invoke(main, ["status", str(store)]).stdout
    assert f"normal: 2 writes, {row['bytes']} bytes, for the link's class" in table


def test_an_awaited_store_has_a_class_of_link_too(world: BodyWorld) -> None:
    metered(world, "a", METERED).close()

    async def deferred() -> str:
        config = EdgeConfig(sync_url=world.server.url, links=(METERED._replace(lanes=(URGENT,)),))
        async with await AsyncEdge.open(world.directory / "a", config=config) as edge:
            edge.link_class = "metered"
            await (await edge.collection("notes")).put("n", {"x": 1})
            with pytest.raises(Deferred) as caught:
                await edge.sync(timeout_s=PATIENCE_S)
            assert edge.link_class == "metered"
            return str(caught.value)

    assert "class" in asyncio.run(deferred())
