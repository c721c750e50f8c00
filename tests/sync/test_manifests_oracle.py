"""``sync.manifests`` against python-tuf's own set as an oracle.

``TrustedMetadataSet`` is private to python-tuf, reads a clock when it is made and imports an HTTP client: it does not
run on devices. It answers here. Hypothesis draws rounds of updates out of signed sets of free versions, and of good,
old, foreign, half-signed, expired and damaged files; both must take the same ones, refuse for the same kind of reason,
and trust the same versions.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.exceptions import BadVersionNumberError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import MetaFile, Snapshot
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from sync.errors import Expired, Untrusted
from sync.manifests import Offer, TrustedSet
from tests.trust_oracle import oracle
from tests.trust_world import DAY_MS, FLEET, NOW_MS, PrivateKey, World, at, flipped, named, signed, with_signatures

WORLD = World(documents={"policies/kiosk/1.json": b"{}", "models/embed/3.json": b"[]"})
ROLES = ("targets", "policies", "models")


NEW_ONLINE = WORLD.but(online=PrivateKey(41))
NEW_ROOTS = NEW_ONLINE.but(roots=tuple(PrivateKey(number) for number in (4, 5, 6)))
SETS = {
    "v1": WORLD.offer(1),
    "v2": WORLD.offer(2),
    "v3, which ends early": WORLD.offer(3, expires_ms=NOW_MS + DAY_MS),
    "v4, whose roles end early": WORLD.offer(4, role_expires_ms=NOW_MS + DAY_MS),
    "far ahead": WORLD.offer(10**9),
    "v2 of the new key": NEW_ONLINE.offer(2),
    "v3 of the new key": NEW_ONLINE.offer(3),
    "of another fleet": World(
        roots=tuple(PrivateKey(n) for n in (51, 52, 53)), targets=(PrivateKey(54),), online=PrivateKey(55)
    ).offer(2),
    "half-signed roles": Offer(),
}
SETS["half-signed roles"] = WORLD.but(policies=WORLD.policies[:1]).offer(5)
SECOND = NEW_ONLINE.root(2)
ROOT_CHAINS: dict[str, tuple[bytes, ...]] = {
    "none": (),
    "rotated online": (SECOND,),
    "and rotated roots": (SECOND, NEW_ROOTS.root(3, by=(*NEW_ONLINE.roots, *NEW_ROOTS.roots))),
    "by the old alone": (NEW_ROOTS.root(2, by=WORLD.roots),),
    "by the new alone": (NEW_ROOTS.root(2),),
    "one of two": (NEW_ONLINE.root(2, by=WORLD.roots[:1]),),
    "skips one": (NEW_ONLINE.root(3),),
    "the same again": (WORLD.root(1),),
    "has expired": (NEW_ONLINE.root(2, expires_ms=NOW_MS - DAY_MS),),
}


def parts_of(offer: Offer) -> dict[str, bytes]:
    return {"timestamp": offer.timestamp, "snapshot": offer.snapshot, **offer.roles}


@cache
def files(role: str) -> list[bytes]:
    found = [parts_of(offer)[role] for offer in SETS.values()]
    return found + [with_signatures(data, lambda entries: entries[:-1]) for data in found]


@cache
def composed(
    timestamp: int, snapshot: int, roles: tuple[int, ...], extra: int, wrong: str, late: str, online: int
) -> Offer:
    """Signed by who must, of these versions, each file named by its digest. ``extra``: the version of a role that is in
    the snapshot and that nobody delegates to, or 0. ``wrong``: a file that is named with a version that it has not.
    ``late``: one that ends early.
    """
    ends = {name: NOW_MS + (1 if name == late else 300) * DAY_MS for name in (*ROLES, "timestamp", "snapshot")}
    versions = dict(zip(ROLES, roles, strict=True))
    data = {name: (WORLD.top(version, ends[name]) if name == "targets" else WORLD.role(name, version, ends[name]))
            for name, version in versions.items()}  # fmt: skip
    meta = Snapshot(version=snapshot, expires=at(ends["snapshot"]))
    meta.meta = {f"{name}.json": named(versions[name] + (name == wrong), data[name]) for name in ROLES}
    if extra:
        meta.meta["extra.json"] = MetaFile(extra, 1, {"sha256": "00" * 32})
    signer = PrivateKey(online)
    meta_bytes = signed(meta, [signer])
    top = WORLD.but(online=signer).timestamp(
        timestamp, meta_bytes, ends["timestamp"], snapshot + (wrong == "snapshot")
    )  # fmt: skip
    return Offer((), top, meta_bytes, data)


some = st.integers(1, 3)
compositions = st.builds(
    composed, some, some, st.tuples(some, some, some), st.integers(0, 2),
    st.sampled_from([*[""] * 8, "snapshot", *ROLES]), st.sampled_from([*[""] * 8, "timestamp", "snapshot", *ROLES]),
    st.sampled_from([40, 40, 40, 41]),
)  # fmt: skip


def likely(wrong: list[str], late: list[str], online: int) -> st.SearchStrategy[Offer]:
    versions = st.tuples(some, some, some)
    ends = st.sampled_from(late)
    return st.builds(composed, some, some, versions, st.integers(0, 1), st.sampled_from(wrong), ends, st.just(online))


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Offer, int]:
    """Half of them lack one thing at most: else few get as far as the later checks."""
    easy = draw(st.sampled_from(["good", "good", "new key", "wrong version", "late", *["hard"] * 4]))
    if easy == "new key":
        roots = ROOT_CHAINS[draw(st.sampled_from(["rotated online", "none"]))]
        return draw(likely([""], [""], 41))._replace(roots=roots), NOW_MS
    if easy == "late":
        return draw(likely([""], ["timestamp", "snapshot", *ROLES], 40)), NOW_MS + DAY_MS
    if easy != "hard":
        return draw(likely(["snapshot", *ROLES] if easy == "wrong version" else [""], [""], 40)), NOW_MS
    base = draw(st.one_of(compositions, compositions, st.sampled_from(list(SETS.values()))))
    parts = parts_of(base)
    for role in draw(st.just([]) | st.lists(st.sampled_from(sorted(parts)), max_size=2)):
        how = draw(st.sampled_from(["other set", "other role", "flipped"]))
        if how == "other set":
            parts[role] = (
                draw(compositions.map(parts_of))[role] if draw(st.booleans()) else draw(st.sampled_from(files(role)))
            )
        elif how == "other role":
            parts[role] = draw(st.sampled_from(files(draw(st.sampled_from(sorted(parts))))))
        else:
            parts[role] = flipped(parts[role], draw(st.integers(0, 8 * len(parts[role]) - 1)))
    roots = ROOT_CHAINS[draw(st.sampled_from([*["none"] * 6, *sorted(ROOT_CHAINS)]))]
    offer = Offer(roots, parts.pop("timestamp"), parts.pop("snapshot"), parts)
    return offer, NOW_MS + draw(st.sampled_from([0, 0, 0, 0, DAY_MS, 2 * DAY_MS, 30 * DAY_MS, 400 * DAY_MS]))


@settings(max_examples=250, deadline=None)
@given(st.lists(rounds(), min_size=2, max_size=6))
def test_it_answers_as_pythons_own_set(drawn: list[tuple[Offer, int]]) -> None:
    trusted = WORLD.pinned()
    for offer, now_ms in drawn:
        before = trusted.stored()
        try:
            theirs: TrustedMetadataSet | type[Exception] = oracle(before, offer, now_ms)
        except ExpiredMetadataError:
            theirs = Expired
        except RepositoryError:
            theirs = Untrusted
        try:
            ours: TrustedSet | type[Exception] = trusted.update(offer, now_ms)
        except Untrusted as error:
            ours = type(error)
        if isinstance(ours, TrustedSet):
            assert isinstance(theirs, TrustedMetadataSet)
            assert ours.versions() == {name: signed.version for name, signed in theirs._trusted_set.items()}
            trusted = TrustedSet.load(ours.stored(), FLEET)
            assert trusted.versions() == ours.versions()
        else:
            assert theirs is ours
            assert trusted.stored() == before


def test_a_newer_timestamp_does_not_name_an_older_snapshot() -> None:
    older = composed(2, 1, (2, 2, 2), 0, "", "", 40)
    trusted = WORLD.pinned().update(composed(1, 2, (2, 2, 2), 0, "", "", 40), NOW_MS)
    with pytest.raises(Untrusted, match="snapshot: version 1 is older than 2"):
        trusted.update(older, NOW_MS)
    with pytest.raises(BadVersionNumberError):
        oracle(trusted.stored(), older, NOW_MS)
    assert WORLD.pinned().update(older, NOW_MS).whole


def test_the_draws_are_not_all_refused() -> None:
    trusted = WORLD.pinned()
    for name in ("v1", "v2", "far ahead"):
        trusted = trusted.update(SETS[name], NOW_MS)
        assert isinstance(oracle(WORLD.pinned().stored(), SETS[name], NOW_MS), TrustedMetadataSet)
    assert trusted.versions() == dict.fromkeys(["timestamp", "snapshot", *ROLES], 10**9) | {"root": 1}
    rotated = SETS["v2 of the new key"]._replace(roots=ROOT_CHAINS["rotated online"])
    assert trusted.update(rotated, NOW_MS).versions()["timestamp"] == 2
