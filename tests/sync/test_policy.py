"""A policy is a closed document: what it says is read whole or refused with the key and a hint; canonical bytes come
back as they were.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import InvalidPolicy
from sync.policy import POLICY_BYTES_MAX, Policy
from sync.policy_source import read_policy
from sync.policy_tables import TABLES, Grant, SyncRule, Urgent
from tests.sync.policies import documents

HEAD = 'schema = 1\nname = "kiosk"\n'


@given(documents)
def test_a_policy_comes_back_from_its_bytes(document: dict[str, Any]) -> None:
    policy = Policy.from_document(document)
    data = policy.to_json()
    assert Policy.parse(data) == Policy.again(data) == read_policy(data) == policy
    assert Policy.parse(data).to_json() == data


@given(documents, st.data())
def test_a_key_that_nobody_knows_is_an_error_wherever_it_is(document: dict[str, Any], data: st.DataObject) -> None:
    tables = [document, *(value for value in document.values() if isinstance(value, dict))]
    tables += [one for value in document.values() if isinstance(value, list) for one in value]
    tables += [inner for table in list(tables) for inner in table.values() if isinstance(inner, dict)]
    data.draw(st.sampled_from(tables))["directoin"] = "up"
    with pytest.raises(InvalidPolicy, match="has no key 'directoin'") as caught:
        Policy.from_document(document)
    assert caught.value.hint.startswith("known are ")


def test_what_is_written_is_what_is_meant() -> None:
    policy = read_policy(
        (
            HEAD
            + """
            [[sync]]
            collections = ["sensors.*"]
            prefixes = ["north/"]
            direction = "up"
            urgent_when = {field = "importance", at_least = 8}
            [[agent]]
            name = "guide"
            allow = {read = ["*"], write = ["notes", "agent.*"]}
            [[link]]
            class = "metered"
            lanes = ["urgent"]
            [store]
            quota_mib = 5
            """
        ).encode()
    )
    assert policy.sync == (
        SyncRule(("sensors.*",), prefixes=("north/",), direction="up", urgent_when=Urgent("importance", 8)),
    )
    assert policy.agents[0].allow == Grant(("*",), ("notes", "agent.*"))
    assert policy.agents[0].deny == Grant()
    assert (policy.link[0].link_class, policy.link[0].lanes, policy.store.quota_mib) == ("metered", ("urgent",), 5)
    assert (policy.log.level, policy.cedar, policy.merge) == ("", None, ())


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[[sync]]\n", r"\[\[sync\]\] 1 names collections or agents", "is all"),
        ('[[sync]]\ncollections=["a"]\nagents=["b"]', "one of the two", "is all"),
        ('[[sync]]\nagents=["a"]\nprefixes=["b"]', "prefixes are of the keys of collections", "namespaces"),
        ('[[sync]]\ncollections=["a"]\nnamespaces=["b"]', "namespaces are of agents", "prefixes"),
        ('[[sync]]\ncollections=["agent.memories"]', "agent.memories", "agents ="),
        ('[[sync]]\ncollections=["agent.*"]', "entry 1 is 'agent", "agents ="),
        ('[[sync]]\ncollections=["_values"]', "_values", "the name of a collection"),
        ('[[sync]]\ncollections=["*s"]', r"\*s", r"and \*"),
        ('[[sync]]\ncollections=["a", "a"]', "'a' twice", "once"),
        ("[[sync]]\ncollections=[]", "collections is", "1 to 64"),
        ('[[sync]]\ncollections="a"', "collections is 'a'", "a list"),
        (f"[[sync]]\ncollections={[f'a{at}' for at in range(65)]}", "collections", "1 to 64"),
        ('[[sync]]\ncollections=["a"]\ndirection="bth"', "direction is 'bth'", "choose one of both, up, down, local"),
        ('[[sync]]\ncollections=["a"]\ninterval_s=true', "interval_s is True", "a whole number from 0"),
        ('[[sync]]\ncollections=["a"]\nage_days_max=-1', "age_days_max is -1", "a whole number from 0"),
        ('[[sync]]\ncollections=["a"]\nprefixes=[""]', "prefixes, entry 1", "the beginning of keys"),
        (f'[[sync]]\ncollections=["a"]\nprefixes=["{"x" * 513}"]', "prefixes, entry 1", "512 bytes"),
        ('[[sync]]\ncollections=["a"]\nurgent_when={field="i"}', "urgent_when has no 'at_least'", "left out"),
        ('[[sync]]\ncollections=["a"]\nurgent_when={field="i", at_least=nan}', "at_least is nan", "a number from"),
        *(
            (f'[[sync]]\ncollections=["a"]\nurgent_when={{field="i", at_least={number}}}', "at_least is", "a number")
            for number in (2**53, 2.0**53, -(2**53), 10**400, hex(1 << 32_000), "inf")
        ),
        ('[[sync]]\ncollections=["a"]\nurgent_when=3', "urgent_when is 3", "a table of field, at_least"),
        ('[[sync]]\nagents=["a"]\nnamespaces=["b*"]', "b\\*", "in full"),
        ('[[sync]]\nagents=["a\\u0000"]', "agents, entry 1", "the name of an agent"),
        (f'[[sync]]\nagents=["{"/" * 43}"]', "agents, entry 1", "128 bytes"),
        ('[[sync]]\ncollections=["a"]\n' * 257, r"257 of \[\[sync\]\]", "256"),
        ('[sync]\ncollections=["a"]', "sync is", r"under \[\[sync\]\]"),
        ("[[store]]\nquota_mib=1", r"\[store\] is", "a table of quota_mib"),
        ('[[merge]]\ncollection="a"', r"\[\[merge\]\] 1 has no 'conflict'", "left out"),
        ('[[merge]]\ncollection="a"\nconflict="first"', "conflict is 'first'", "resolver:NAME"),
        ('[[merge]]\ncollection="a*"\nconflict="latest"', "a\\*", "the name of a collection"),
        ('[[merge]]\ncollection="a"\nconflict="latest"\n' * 2, "collection 'a' is there twice", "once"),
        ('[[retention]]\ncollection="a"\ndelete_days=0', "delete_days is 0", "from 1"),
        ('[[forget]]\nagent="a"\nkinds=["old"]', "kinds, entry 1 is 'old'", "episodic"),
        ('[[forget]]\nagent="a"\nmin_retention=2', "min_retention is 2", "from 0 to 1"),
        ("[[link]]\nbytes_per_day=1", r"\[\[link\]\] 1 has no 'class'", "left out"),
        ('[[link]]\nclass="a"\n[[link]]\nclass="a"', "class 'a' is there twice", "once"),
        ('[[link]]\nclass="Wi Fi"', "class is 'Wi Fi'", "metered"),
        ('[log]\nlevel="loud"', r"\[log\]: level is 'loud'", "warning"),
        ('[[agent]]\nname="a"\nallow={read=["agent.heads"]}', "agent.heads", "agent.memories"),
        ('[[agent]]\nname="a"\nallow={erase=["*"]}', "allow has no key 'erase'", "read, write"),
        ('[[agent]]\nname="a"\n' * 2, "name 'a' is there twice", "once"),
        (f'[cedar]\ntext="{"x" * 70_000}"', "70,000 bytes", "65,536"),
        (f"[cedar]\ntext='permit(principal,action,resource) when {{{'(' * 2000}true{')' * 2000}}};'", "nested", "24"),
        (f"[cedar]\ntext='{'if true then ' * 200}true'", "nested too deeply", "100 times if"),
        ('[[staleness]]\nafter_hours=1\ndo="stop"', "do is 'stop'", "writes-local"),
        ("schema2 = 1", "no key 'schema2'", "known are schema, name, sync"),
        ("a = 1\na = 1", "not valid TOML", "schema = 1"),
        ("a = " + "[" * 5_000, "not valid TOML", "schema = 1"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_and_what_to_do(text: str, said: str, hint: str) -> None:
    import re

    with pytest.raises(InvalidPolicy, match=said) as caught:
        read_policy((HEAD + text).encode())
    assert re.search(hint, caught.value.hint), caught.value.hint


@pytest.mark.parametrize(
    "schema", ["", "schema = 2", 'schema = "1"', "schema = true", "schema = 1.0", f"schema = {1 << 32_000:#x}"]
)
def test_a_schema_that_is_not_known_here_is_refused_before_anything_else(schema: str) -> None:
    with pytest.raises(InvalidPolicy, match="the schema of the policy") as caught:
        read_policy(f'{schema}\nname = "a"\nfrom_the_future = 1'.encode())
    assert "newer version" in caught.value.hint


@pytest.mark.parametrize("name", ["", "Kiosk", "a/b", "x" * 65, "-a"])
def test_a_name_is_part_of_a_path(name: str) -> None:
    with pytest.raises(InvalidPolicy, match="name is"):
        Policy.from_document({"schema": 1, "name": name})


@pytest.mark.parametrize(
    "data",
    [
        b'{"schema":1,"name":"a"}',  # keys out of order
        b'{"name": "a","schema":1}',
        b'{"name":"a","name":"a","schema":1}',
        b'{"name":"a","schema":1.0}',
        b'{"name":"a","schema":1}\n',
        b'{"name":"\\u0061","schema":1}',
        b'{"name":"\\ud800","schema":1}',
        b'{"name":NaN,"schema":1}',
        b'{"name":9007199254740993,"schema":1}',
        b'{"name":' + b"9" * 5_000 + b',"schema":1}',
        b'{"a":' * 50_000,
        b"[" * 50_000,
        b"\xff",
        b"",
        b"[]",
        b"null",
        b"{" + b" " * POLICY_BYTES_MAX,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_bytes_that_are_not_the_canonical_form_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        Policy.parse(data)
    assert caught.value.hint


@given(st.binary(max_size=60), documents)
def test_no_bytes_do_anything_but_parse_or_raise(noise: bytes, document: dict[str, Any]) -> None:
    data = bytearray(rfc8785.dumps(document))
    for at, byte in enumerate(noise):
        data[(at * 31 + byte) % len(data)] = byte
    for parse in (Policy.parse, read_policy):
        try:
            policy = parse(bytes(data))
        except InvalidPolicy:
            continue
        else:
            assert Policy.parse(policy.to_json()) == policy


def test_every_default_is_left_out_and_every_key_can_be_said() -> None:
    assert json.loads(Policy("a").to_json()) == {"name": "a", "schema": 1}
    for key, table in TABLES.items():
        for field in table.make._fields:
            assert {"link_class": "class"}.get(field, field) in table.keys, f"{key}.{field}"
        assert len(table.make._fields) == len(table.keys)


def test_a_policy_that_is_too_large_is_refused_in_both_forms() -> None:
    rule = '[[sync]]\ncollections=["a"]\nprefixes=[' + ",".join(f'"{at:0500}"' for at in range(60)) + "]\n"
    with pytest.raises(InvalidPolicy, match="262,144"):
        read_policy((HEAD + rule * 10).encode())
