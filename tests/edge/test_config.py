"""The configuration file: the sample says every key and every default; what is not understood is a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import CONFIG_BYTES_MAX, EdgeConfig, load_config
from edge.node import Edge
from sync.errors import InvalidConfig

SAMPLE = Path(__file__).resolve().parents[2] / "configs" / "edge.toml"


def test_the_sample_says_every_key_with_its_default() -> None:
    assert load_config(str(SAMPLE)) == EdgeConfig()
    text = SAMPLE.read_text()
    for field in EdgeConfig._fields:
        key = field.removeprefix("sync_")
        assert f"\n{key} = " in text, key


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[store]\ndurability = 'maybe'", "durability"),
        ("[store]\ndurability = 1", "durability"),
        ("[store]\nurk = 1", "urk"),
        ("[urk]\na = 1", "urk"),
        ("store = 1", "store"),
        ("[search]\nexact_mib_max = -1", "exact_mib_max"),
        ("[search]\nexact_mib_max = true", "exact_mib_max"),
        ("[sync]\nallow_plain_http = 1", "allow_plain_http"),
        ("[projection]\nflush_interval_ms = 1", "flush_interval_ms"),
        ("[store\n", "TOML"),
        ("\0", "TOML"),
    ],
)
def test_a_wrong_file_names_itself_and_the_key_and_says_what_to_do(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        load_config(str(path))
    assert str(path) in caught.value.message
    assert named in caught.value.message
    assert caught.value.hint


def test_bytes_that_are_no_text_and_files_that_are_too_long(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    for data in (b"\xff\xfe", b"#" * (CONFIG_BYTES_MAX + 1)):
        path.write_bytes(data)
        with pytest.raises(InvalidConfig, match=r"edge\.toml"):
            load_config(str(path))


def test_a_wrong_file_opens_no_store_and_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[store]\ndurability = 'maybe'")
    with pytest.raises(InvalidConfig):
        Edge.open(tmp_path / "store", config=path)
    assert not (tmp_path / "store").exists()
    with pytest.raises(InvalidConfig, match="no configuration file"):
        Edge.open(tmp_path / "store", config=tmp_path / "missing.toml")


def test_relaxed_durability_is_taken_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "edge.toml").write_text("[store]\ndurability = 'relaxed'")
    with Edge.open(tmp_path / "store") as edge:
        assert edge.status()["durability"] == "relaxed"
