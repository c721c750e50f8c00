"""Texts for the demo: what is taken, what is left out, and what a bad input is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.corpus import CHARACTERS_MAX, CorpusError, Text, read_path, spread, standard_library

LONG = "The pump on the second floor is loud when the valve is half open."


def test_the_standard_library_has_thousands_of_real_texts_and_fewer_are_spread_over_all_modules() -> None:
    texts = standard_library()
    by_key = {text.key: text for text in texts}
    assert len(by_key) == len(texts) > 4_000
    assert "JSON" in by_key["json"].body
    assert by_key["json.decoder.JSONDecoder.decode"].source == "json.decoder"
    assert not any(key.startswith(("test.", "idlelib.")) for key in by_key)
    some = spread(texts, 500)
    assert len({text.key for text in some}) == 500
    assert some[0].source < "b"
    assert some[-1].source > "x"
    assert spread(texts, len(texts) + 1) == texts


def test_a_text_file_is_read_by_paragraphs_and_headings_go_with_what_follows(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(f"Pumps\n\n{LONG}\r\n\r\n\r\n{LONG} Again.\n\nshort end")
    bodies = [text.body for text in read_path(file)]
    assert bodies == [f"Pumps\n\n{LONG}", f"{LONG} Again.", "short end"]


def test_a_very_long_paragraph_is_cut_without_losing_a_character(tmp_path: Path) -> None:
    file = tmp_path / "long.md"
    file.write_text("x" * (2 * CHARACTERS_MAX + 1))
    assert "".join(text.body for text in read_path(file)) == "x" * (2 * CHARACTERS_MAX + 1)


def test_json_lines_may_be_strings_or_objects(tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    lines = [LONG, {"id": 7, "title": "Pump", "text": LONG}, {"note": "x", "content": LONG, "n": 1}]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    first, second, third = read_path(file)
    assert first == Text("notes.jsonl#1", "notes.jsonl", "notes.jsonl#1", LONG)
    assert (second.key, second.title) == ("notes.jsonl:7", "Pump")
    assert third.body == LONG


def test_unknown_fields_are_told_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text(json.dumps({"message": LONG, "level": "info"}))
    with pytest.raises(
        CorpusError, match=r"line 1: no text in it: .* text, body, content, document, description, title"
    ):
        read_path(file)


@pytest.mark.parametrize("line", ["{", "17", '{"n": 1}', "[]", "[" * 100_000])
def test_a_line_without_text_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{json.dumps(LONG)}\n{line}\n")
    with pytest.raises(CorpusError, match=r"bad\.jsonl, line 2"):
        read_path(file)


def test_lone_surrogates_never_get_in(tmp_path: Path) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text('{"id": "\\ud800", "title": "\\udfff", "text": "a \\ud800 b"}')
    for text in read_path(file):
        "".join(text).encode()


def test_a_directory_gives_its_text_files_and_leaves_out_the_rest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text(LONG)
    (tmp_path / ".hidden").write_text(LONG)
    (tmp_path / "image.bin").write_bytes(b"\0\1\2")
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    assert [text.source for text in read_path(tmp_path)] == ["sub/a.txt"]


def test_what_holds_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nothing at"):
        read_path(tmp_path / "missing")
    with pytest.raises(CorpusError, match="no text"):
        read_path(tmp_path)
    (tmp_path / "image.bin").write_bytes(b"\0\1")
    with pytest.raises(CorpusError, match="not UTF-8"):
        read_path(tmp_path / "image.bin")


def test_a_long_name_becomes_a_short_and_distinct_key(tmp_path: Path) -> None:
    file = tmp_path / "ids.jsonl"
    file.write_text("\n".join(json.dumps({"id": "k" * 600 + end, "text": LONG}) for end in "ab"))
    keys = [text.key for text in read_path(file)]
    assert len(set(keys)) == 2
    assert max(map(len, keys)) <= 120
