"""Code is cut where its syntax ends something; what was cut stays so until it changes."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edge import Documents, Edge, InvalidValue, NotFound, Splitter
from edge.agent.code_parts import LANGUAGES, PART_BYTES, PART_BYTES_MAX, language_of
from edge.agent.loading import Loaded

SOURCE = "\n\n".join(
    f"def number_{number}(value: int) -> int:\n    total = value + {number}\n\n    return total * {number}"
    for number in range(40)
)
SMALL = Splitter(size=150, overlap=0)


def loaded(text: str, name: str = "code.py") -> Loaded:
    return Loaded(name, "text/plain", text)


def test_a_function_is_a_chunk_in_spite_of_its_blank_lines() -> None:
    chunks = SMALL.chunks(loaded(SOURCE))
    assert [chunk.text for chunk in chunks] == re.split(r"\n\n(?=def )", SOURCE)
    plain = SMALL.chunks(loaded(SOURCE, "code.txt"))
    assert any(not chunk.text.startswith("def ") for chunk in plain), "as text it is cut at blank lines"
    assert SMALL._replace(language="text").chunks(loaded(SOURCE)) == plain
    assert SMALL._replace(language="python").chunks(loaded(SOURCE, "")) == chunks


def covers(text: str, chunks: list[Any]) -> None:
    """Each is the text's at its place, and nothing but space is in none."""
    seen = 0
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert not text[seen : chunk.start].strip()
        seen = max(seen, chunk.end)
    assert not text[seen:].strip()


def test_offsets_are_exact_beyond_one_part_and_ascii() -> None:
    library = Path(argparse.__file__).read_text(encoding="utf-8")
    for text in (library, f"# é ü 漢字 🚀\n{SOURCE}\n" * 30, "é" * 5_000, "def broken(:\n  )\n" * 900):
        assert text.isascii() is (text is library or "broken" in text)
        for overlap in (0, 40):
            covers(text, Splitter(size=200, overlap=overlap).chunks(loaded(text)))
    assert len(library) > 2 * PART_BYTES
    words = Splitter(size=20, overlap=0, measure=lambda part: len(part.split()))
    covers(SOURCE, words.chunks(loaded(SOURCE)))


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "(" * 4_000 + "1" + ")" * 4_000,  # 50 s if it is cut by its syntax
        "x = " + " + ".join(["1"] * 20_000),
        "x = [" + "1, " * PART_BYTES_MAX + "]",  # one statement that no person wrote
        "def f():\n    return 1\n\n" * 60_000,  # 10 s in one part
    ],
    ids=["nested", "a long sum", "a long list", "many functions"],
)
def test_what_would_take_the_splitter_for_ever_is_cut_soon(text: str) -> None:
    before = time.process_time()
    covers(text, Splitter().chunks(loaded(text)))
    assert time.process_time() - before < 8


def test_every_language_has_its_parser() -> None:
    for name in LANGUAGES:
        found = language_of(name, "")
        assert found is not None
        assert [part.code for part in found.parts("x")] == [True]
    for file in ("a.sh", "a.c", "a.HPP", "a.go", "A.java", "a.mjs", "a.pyi", "a.rs", "a.tsx", "a.ts"):
        assert language_of(None, file) is not None, file
    for file in ("a.md", "a.txt", "Makefile", "py", "", "a.rb"):
        assert language_of(None, file) is None, file


def test_a_language_that_is_not_there(manuals: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("klingon", 5, ["python"]):
        with pytest.raises(InvalidValue, match="not a language") as refused:
            manuals.add(SOURCE, id="x", chunker=Splitter(language=wrong))  # type: ignore[arg-type]
        assert "python" in refused.value.hint
    monkeypatch.setitem(sys.modules, "tree_sitter_python", None)
    with pytest.raises(NotFound) as missing:
        manuals.add(SOURCE, id="x", chunker=Splitter(language="python"))
    assert "agentdb-edge[code]" in missing.value.hint
    assert SMALL.chunks(loaded(SOURCE)) == SMALL.chunks(loaded(SOURCE, "code.txt")), "without the extra it is text"
    monkeypatch.setitem(sys.modules, "tree_sitter_python", importlib.import_module("tree_sitter_c"))
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    assert language_of(None, "code.py") is None


def test_an_edit_of_code_writes_the_function_that_it_touched(manuals: Documents, tmp_path: Path) -> None:
    code = tmp_path / "numbers.py"
    code.write_text(SOURCE)
    assert manuals.add(code, chunker=SMALL).written == 40
    (hit,) = manuals.search("number_7", k=1)
    assert hit.text == SOURCE[hit.start : hit.end]
    assert hit.text.startswith("def number_7(")
    assert hit.text.endswith("return total * 7")
    code.write_text(SOURCE.replace("total * 7", "total * 77"))
    done = manuals.add(code, chunker=SMALL)
    assert (done.written, done.kept, done.deleted) == (1, 39, 1)


def test_what_is_indexed_is_not_cut_anew_until_it_changes(
    edge: Edge, manuals: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "numbers.py"
    code.write_text(SOURCE)
    with monkeypatch.context() as without:  # the extra is installed later
        without.setitem(sys.modules, "tree_sitter", None)
        before = manuals.add(code, chunker=SMALL)
    position = edge.log.position
    again = manuals.add(code, chunker=SMALL)
    assert (again.written, again.kept, edge.log.position) == (0, before.written, position)
    assert manuals.add(code, chunker=SMALL._replace(size=140)).written == 40, "but by another size, when asked for"
    manuals.add(code, chunker=SMALL)

    with monkeypatch.context() as without:  # as a device does that has no parsers
        without.setitem(sys.modules, "tree_sitter", None)
        position = edge.log.position
        assert manuals.add(code, chunker=SMALL).written == 0
        assert edge.log.position == position
    chunks = edge.collection("agent.chunks")
    chunks.delete(next(key for key, _ in chunks.scan()))
    healed = manuals.add(code, chunker=SMALL)
    assert (healed.written, healed.kept) == (1, 39)
    covers(SOURCE, [hit for number in range(40) for hit in manuals.search(f"number_{number}", k=1)])


def test_an_index_from_before_there_were_languages(
    edge: Edge, manuals: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "numbers.py"
    code.write_text(SOURCE)
    before = manuals.add(code, chunker=SMALL._replace(language="text"))
    documents = edge.collection("agent.documents")
    ((key, fields),) = documents.scan()
    documents.put(key, {name: value for name, value in fields.items() if name != "cut"})
    position = edge.log.position
    again = manuals.add(code, chunker=SMALL)
    assert (again.written, again.kept, again.deleted) == (0, before.written, 0)
    assert edge.log.position == position + 1, "how it was cut is noted, once"
    with monkeypatch.context() as unneeded:
        unneeded.setattr(Splitter, "chunks", None)
        assert manuals.add(code, chunker=SMALL).kept == before.written, "it is not cut again to find that out"
    assert edge.log.position == position + 1
    assert manuals.add(code, chunker=SMALL._replace(size=140)).deleted, "but by another size, when asked for"
    manuals.add(code, chunker=SMALL._replace(language="text"))
    code.write_text(SOURCE + "\n\nLAST = 1\n")
    assert manuals.add(code, chunker=SMALL).written == 40, "a new text is cut by its syntax"
