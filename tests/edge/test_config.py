"""The device's configuration: the sample is the defaults, and a mistake names file, key and what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any, cast

import pytest

from edge.config import EdgeConfig, load_config
from edge.node import Edge
from sync.budgets import LinkLimits
from sync.errors import InvalidConfig

SAMPLE = Path(__file__).parent.parent.parent / "configs" / "edge.toml"


def test_the_sample_shows_every_key_with_its_default(tmp_path: Path) -> None:
    assert load_config(str(SAMPLE)) == EdgeConfig()
    text = SAMPLE.read_text()
    changed = (
        text.replace('"full"', '"relaxed"')
        .replace("= 150", "= 151")
        .replace("quota_bytes = 0", "quota_bytes = 1")
        .replace("2_000", "2_001")
        .replace("100_000", "100_001")
        .replace("1_024", "1_025")
        .replace('url = ""', 'url = "https://x"')
        .replace("= false", "= true")
        .replace('link_class = ""', 'link_class = "metered"')
        .replace("# [[link]]", "[[link]]")
        .replace("# embed =", "embed =")
    )
    head, _, links = changed.partition("[[link]]")
    path = tmp_path / "edge.toml"
    path.write_text(head + "[[link]]" + links.replace("\n# ", "\n"))
    for name, value in load_config(str(path))._asdict().items():
        assert value != EdgeConfig()._asdict()[name], f"{name} is not in the sample"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[link]]\nclass = 1\n", "class cannot be 1"),
        ("[[link]]\nbytes_a_day = 1\n", "has no key 'bytes_a_day'"),
        ("[[link]]\nbytes_per_day = 1\n", "bytes_per_day is 0"),
        ('[[link]]\nlanes = ["fast"]\n', "lanes are urgent, normal, bulk"),
        ("[[link]]\n[[link]]\n", "a class is there twice"),
        ("[link]\nclass = 'metered'\n", r"\[\[link\]\]"),
        ("durability = 1", r"there is no \[durability\]"),
        ("[storage]\n", r"there is no \[storage\]"),
        ("store = 3", r"there is no \[store\]"),
        ("[store]\ndurabilty = 'full'", r"\[store\] has no key 'durabilty'"),
        ("[store]\ndurability = 'none'", "durability"),
        ("[store]\ndurability = 7", "durability"),
        ("[search]\nexact_mib_max = -1", "exact_mib_max"),
        ("[search]\nexact_mib_max = 1.5", "exact_mib_max"),
        ("[search]\nexact_mib_max = true", "exact_mib_max"),
        ("[projection]\nflush_interval_ms = 0", "flush_interval_ms"),
        ("[sync]\nallow_plain_http = 1", "allow_plain_http"),
        ("[store]\n[store]\n", "not valid TOML"),
        ("[models]\nrunners = 3", "runners in .models. is a table"),
        ("[models.runners]\nembed = 3", "which is no function"),
        ("[models.runners]\nembed = 'myapp.models'", "which is no function"),
        ("[models.runners]\nembed = 'os:system(1)'", "which is no function"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("\0", "not valid TOML"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=said) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_config(str(tmp_path / "missing.toml"))
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_config(str(tmp_path))
    path = tmp_path / "edge.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidConfig, match="not UTF-8"):
        load_config(str(path))
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InvalidConfig, match="over"):
        load_config(str(path))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (EdgeConfig(durability="foo"), "durability is 'foo'"),
        (EdgeConfig(exact_mib_max="x"), "exact_mib_max is a whole number"),  # type: ignore[arg-type]
        (EdgeConfig(exact_mib_max=-3), "exact_mib_max is -3"),
        (EdgeConfig(flush_interval_ms=0), "flush_interval_ms is 0"),
        (EdgeConfig(sync_url=None), "sync_url is a string"),  # type: ignore[arg-type]
        (EdgeConfig(sync_allow_plain_http=1), "sync_allow_plain_http is true or false"),  # type: ignore[arg-type]
        ({"durability": "full"}, "not dict"),
    ],
)
def test_a_configuration_made_in_python_is_checked_as_the_file_is(tmp_path: Path, config: Any, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said) as caught:
        Edge.open(tmp_path / "store", config=config)
    assert caught.value.hint
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "links",
    [
        "metered",
        7,
        None,
        ({"class": "metered"},),
        (LinkLimits(bytes_per_day=cast("int", "lots")),),
        (LinkLimits(lanes=cast("tuple[str, ...]", None)),),
        (LinkLimits(cast("str", None)),),
        (LinkLimits(urgent_share=0.9),),
        (LinkLimits(), LinkLimits()),
    ],
)
def test_links_made_in_python_are_checked_as_those_of_the_file_are(tmp_path: Path, links: Any) -> None:
    with pytest.raises(InvalidConfig, match="links") as caught:
        Edge.open(tmp_path / "store", config=EdgeConfig(links=links))
    assert caught.value.hint
    assert not (tmp_path / "store").exists()


def test_an_option_that_there_is_not() -> None:
    foreign: Any = {"foo": 1, "quota_bytes": 5}
    with pytest.raises(InvalidConfig, match="'foo'") as caught:
        EdgeConfig(**foreign)
    assert "durability, quota_bytes" in caught.value.hint
    many: Any = range(99)
    with pytest.raises(InvalidConfig, match="options, not 99"):
        EdgeConfig(*many)
    chosen = EdgeConfig("relaxed", quota_bytes=5)
    assert (chosen, chosen._replace(quota_bytes=0)) == (EdgeConfig("relaxed", 5), EdgeConfig("relaxed"))
    assert pickle.loads(pickle.dumps(chosen)) == chosen == copy.deepcopy(chosen)
    assert str(inspect.signature(EdgeConfig)).startswith("(durability: ")
