"""Documents: what is indexed is found where it stands, and a new version costs what has changed."""

from __future__ import annotations

import pydoc
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from edge import (
    CallableEmbedder,
    Documents,
    Edge,
    InvalidFilter,
    InvalidValue,
    NotFound,
    Splitter,
    TooLarge,
)
from edge.agent.loading import Loaded

PARAGRAPHS = [f"Paragraph {number} is about the {word} in hall {number}." for number, word in enumerate(
    ["pump", "valve", "lamp", "door", "gate", "stair", "lift", "roof", "tank", "wire", "fuse", "pipe"]
)]  # fmt: skip
SMALL = Splitter(size=60, overlap=0)


def test_a_hit_says_where_it_stands(manuals: Documents) -> None:
    text = "\n\n".join(PARAGRAPHS)
    done = manuals.add(text, id="halls", chunker=SMALL, metadata={"floor": 2})
    assert (done.written, done.kept, done.deleted) == (12, 0, 0)
    (hit,) = manuals.search("valve", k=1)
    assert hit.text == text[hit.start : hit.end] == PARAGRAPHS[1]
    assert (hit.before, hit.after) == (PARAGRAPHS[0], PARAGRAPHS[2])
    assert (hit.document.id, hit.document.metadata, hit.document.chunks) == ("halls", {"floor": 2}, 12)
    (first,) = manuals.search("pump", k=1)
    assert first.before is None
    assert manuals.text("halls").split() == text.split()


def test_the_same_again_changes_nothing_and_an_edit_only_what_it_touched(edge: Edge, manuals: Documents) -> None:
    manuals.add("\n\n".join(PARAGRAPHS), id="halls", chunker=SMALL)
    position = edge.log.position
    again = manuals.add("\n\n".join(PARAGRAPHS), id="halls", chunker=SMALL)
    assert (again.written, again.kept, again.deleted) == (0, 12, 0)
    assert edge.log.position == position
    edited = [*PARAGRAPHS]
    edited[4] = "Paragraph 4 is about nothing."
    edited.insert(0, "A new beginning, so that all else moves.")
    done = manuals.add("\n\n".join(edited), id="halls", chunker=SMALL)
    assert (done.written, done.kept, done.deleted) == (2, 11, 1)
    assert edge.log.position == position + 4, "two chunks, one that is gone, and the document"
    assert [hit.text for hit in manuals.search("gate")] == []
    (hit,) = manuals.search("lift", k=1)
    assert manuals.text("halls")[hit.start : hit.end] == hit.text == PARAGRAPHS[6]


def test_embeddings_are_made_for_what_is_new(edge: Edge) -> None:
    asked: list[str] = []

    def words(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        out = []
        for text in texts:
            vector = [0.01] * 64
            for word in text.lower().strip(".").split():
                vector[zlib.crc32(word.encode()) % 64] += 1.0
            out.append(vector)
        return out

    manuals = edge.agent("guide").documents(embedder=CallableEmbedder(words, model="w", dimensions=64))
    steps: list[tuple[int, int]] = []
    manuals.add("\n\n".join(PARAGRAPHS), id="a", chunker=SMALL, on_progress=lambda *step: steps.append(step))
    assert (len(asked), steps) == (12, [(12, 12)])
    manuals.add("\n\n".join([*PARAGRAPHS, "One more about the crane."]), id="a", chunker=SMALL)
    assert asked[12:] == ["One more about the crane."]
    for mode in ("vector", "text", "hybrid"):
        assert manuals.search("the crane", k=1, mode=mode)[0].text == "One more about the crane."


def test_a_paragraph_that_is_there_twice(manuals: Documents) -> None:
    text = "\n\n".join([PARAGRAPHS[0], PARAGRAPHS[1], PARAGRAPHS[0]])
    assert manuals.add(text, id="twice", chunker=SMALL).written == 2
    assert manuals.text("twice").split() == text.split()
    done = manuals.add("\n\n".join(PARAGRAPHS[:2]), id="twice", chunker=SMALL)
    assert (done.written, done.kept, done.deleted) == (0, 2, 0)


def test_deleting(edge: Edge, manuals: Documents) -> None:
    manuals.add("\n\n".join(PARAGRAPHS), id="a", chunker=SMALL)
    manuals.add(PARAGRAPHS[0], id="b")
    manuals.delete("a")
    assert [one.id for one in manuals.all()] == ["b"]
    assert [hit.document.id for hit in manuals.search("paragraph")] == ["b"]
    assert edge.log.count("agent.chunks") == 1
    for attempt in (manuals.delete, manuals.text):
        with pytest.raises(NotFound):
            attempt("a")
    assert manuals.get("a") is None


def test_very_many_chunks(edge: Edge, manuals: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.agent.documents._PLACES_PER_RECORD", 5)
    text = "\n\n".join(PARAGRAPHS)
    manuals.add(text, id="a", chunker=SMALL)
    assert manuals.text("a").split() == text.split()
    (hit,) = manuals.search("pipe", k=1)
    assert (hit.text, hit.before) == (PARAGRAPHS[11], PARAGRAPHS[10])
    manuals.add("\n\n".join(PARAGRAPHS[:4]), id="a", chunker=SMALL)
    assert manuals.text("a").split() == "\n\n".join(PARAGRAPHS[:4]).split()
    assert edge.log.count("agent.documents") == 1
    manuals.delete("a")
    assert edge.log.count("agent.documents") == edge.log.count("agent.chunks") == 0


def test_filters_and_rerankers(manuals: Documents) -> None:
    for number, paragraph in enumerate(PARAGRAPHS):
        manuals.add(paragraph, id=f"d{number}", metadata={"floor": number % 3, "tags": ["x"]})
    found = manuals.search("paragraph", k=20, filter={"floor": 1})
    assert {hit.document.id for hit in found} == {"d1", "d4", "d7", "d10"}
    assert manuals.search("paragraph", filter={"floor": 9}) == []
    assert [hit.document.id for hit in manuals.search("paragraph", filter={"id": "d3"})] == ["d3"]
    best = manuals.search("paragraph", k=2, reranker=lambda query, texts: [float("tank" in text) for text in texts])
    assert best[0].text == PARAGRAPHS[8]
    with pytest.raises(InvalidValue, match="0 scores"):
        manuals.search("paragraph", reranker=lambda query, texts: [])
    with pytest.raises(InvalidFilter):
        manuals.search("paragraph", filter={"floor": {"$near": 1}})


def cut(text: str) -> list[str]:
    return text.split("|")


def test_a_version_of_another_devices_that_took_chunks_is_healed(edge: Edge, manuals: Documents) -> None:
    """As two devices leave it: the list of one, and chunks that the other has deleted or added."""
    from edge.storage.transaction import Write
    from sync.operations import Kind

    manuals.add("aaa|bbb|ccc", id="x", chunker=cut)
    keys = {fields["text"]: key for key, fields in edge.collection("agent.chunks").scan()}
    edge.log.submit([Write(Kind.DELETE, "agent.chunks", keys["bbb"])])
    other = keys["aaa"].rpartition("/")[0] + "/" + "0" * 24
    known = edge.collection("agent.chunks").get(keys["aaa"]) or {}
    edge.collection("agent.chunks").put(other, {**known, "text": "orphan aaa"})
    assert [hit.text for hit in manuals.search("aaa")] == ["aaa"], "what no list names is no hit"
    done = manuals.add("aaa|bbb|ccc", id="x", chunker=cut)
    assert (done.written, done.kept, done.deleted) == (1, 2, 1)
    assert manuals.text("x") == "aaa bbb ccc"
    edge.log.submit([Write(Kind.DELETE, "agent.chunks", keys["ccc"])])
    assert manuals.add("aaa|bbb", id="x", chunker=cut).deleted == 0
    edge.log.submit([Write(Kind.DELETE, "agent.chunks", keys["bbb"])])
    manuals.delete("x")
    assert edge.log.count("agent.chunks") == edge.log.count("agent.documents") == 0


def test_many_chunks_that_no_list_names_do_not_hide_the_one_that_is(edge: Edge, manuals: Documents) -> None:
    manuals.add("the pump is loud", id="x")
    chunks = edge.collection("agent.chunks")
    ((key, fields),) = chunks.scan()
    with edge.batch():
        for number in range(80):
            chunks.put(f"{key.rpartition('/')[0]}/{number:024}", {**fields, "text": "pump pump pump"})
    assert [hit.text for hit in manuals.search("pump", k=3)] == ["the pump is loud"]


def test_documents_are_not_for_batches(edge: Edge, manuals: Documents) -> None:
    manuals.add("aaa", id="x")
    with edge.batch():
        for refused in (lambda: manuals.add("bbb", id="x"), lambda: manuals.delete("x")):
            with pytest.raises(InvalidValue, match="not inside of a batch"):
                refused()


def test_a_list_of_many_chunks_fits_its_record(manuals: Documents) -> None:
    text = "|".join(f"{number:07} w" for number in range(12_000))
    assert manuals.add(text, id="long", chunker=cut, metadata={"note": "n" * 10_000}).written == 12_000
    (hit,) = manuals.search("0011999", k=1)
    assert text[hit.start : hit.end] == hit.text == "0011999 w"


def test_vectors_for_a_document_that_had_none(edge: Edge) -> None:
    edge.agent("guide").documents("v").add("the pump is loud", id="x")
    words = CallableEmbedder(lambda texts: [[1.0, 0.0] for _ in texts], model="m", dimensions=2)
    manuals = edge.agent("guide").documents("v", embedder=words)
    assert manuals.search("pump", mode="vector") == []
    assert manuals.add("the pump is loud", id="x").written == 1
    assert len(manuals.search("pump", mode="vector")) == 1


def test_chunks_that_look_alike_are_where_they_are(manuals: Documents) -> None:
    manuals.add("aaaabb", id="x", chunker=lambda text: ["aa", "", "aa", "bb"])
    assert manuals.text("x") == "aaaabb"


# -- kinds of documents -----------------------------------------------------------------------------------------------


def test_markdown_html_code_and_bytes(manuals: Documents, tmp_path: Path) -> None:
    markdown = tmp_path / "guide.md"
    markdown.write_text("# Pumps\n\nThey are loud.\n\n# Lamps\n\nThey are bright.\n")
    html = tmp_path / "page.html"
    html.write_text(
        "<html><head><style>p{}</style><script>let x</script></head><h1>Doors</h1><p>They are <b>green</b>."
    )
    code = tmp_path / "code.py"
    code.write_text("def open_gate(gate):\n    return gate.open()\n")
    for path in (markdown, html, code):
        manuals.add(path)
    manuals.add("Überall Öl".encode(), id="bytes")
    by_title = {one.title: one.media_type for one in manuals.all()}
    assert by_title == {
        "guide.md": "text/markdown",
        "page.html": "text/html",
        "code.py": "text/plain",
        "Überall Öl": "text/plain",
    }
    assert manuals.search("green doors")[0].document.id == str(html)
    assert "script" not in manuals.text(str(html))
    assert "let x" not in manuals.text(str(html))
    assert manuals.search("bright lamps")[0].document.title == "guide.md"


def a_pdf(text: str) -> bytes:
    """The smallest that shows a text (ISO 32000-1, 7.5)."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = BytesIO()
    out.write(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start)
    return out.getvalue()


def test_a_pdf(manuals: Documents, tmp_path: Path) -> None:
    path = tmp_path / "manual.pdf"
    path.write_bytes(a_pdf("The crane lifts nine tons"))
    manuals.add(path)
    assert manuals.search("crane")[0].document.media_type == "application/pdf"
    manuals.add(a_pdf("The winch lifts one ton"), id="bytes")
    assert manuals.search("winch")[0].document.id == "bytes"


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        (b"%PDF-1.4\nnothing", {}, InvalidValue),
        (b"\xff\xfe\x00", {}, InvalidValue),
        (b"a\0b", {}, InvalidValue),
        ("", {}, InvalidValue),
        (" \n", {}, InvalidValue),
        (7, {}, InvalidValue),
        (Path("/nowhere/at/all.md"), {}, NotFound),
        ("text", {"id": ""}, InvalidValue),
        ("text", {"metadata": {"a": object()}}, InvalidValue),
        ("text", {"metadata": [1]}, InvalidValue),
        ("text", {"chunker": 5}, InvalidValue),
        ("text", {"chunker": Splitter(measure=lambda text: "x")}, InvalidValue),  # type: ignore[arg-type, return-value]
        ("\ud800", {}, InvalidValue),
        (Path("a\0b"), {}, InvalidValue),
        ("text", {"chunker": Splitter(size=0)}, InvalidValue),
        ("text", {"chunker": Splitter(size=10, overlap=10)}, InvalidValue),
        ("text", {"chunker": lambda text: ["other"]}, InvalidValue),
        ("text", {"chunker": lambda text: [3]}, InvalidValue),
        ("x" * 70_000, {"chunker": lambda text: [text]}, TooLarge),
    ],
)
def test_bad_documents_change_nothing(
    edge: Edge, manuals: Documents, source: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    position = edge.log.position
    with pytest.raises(error):
        manuals.add(source, **options)
    assert edge.log.position == position


def test_chunkers_of_ones_own(manuals: Documents) -> None:
    text = "one two three four"
    manuals.add(text, id="w", chunker=str.split)
    (hit,) = manuals.search("three", k=1)
    assert (hit.text, text[hit.start : hit.end], hit.before, hit.after) == ("three", "three", "two", "four")
    manuals.add(text, id="m", chunker=Splitter(size=2, overlap=0, measure=lambda part: len(part.split())))
    assert [manuals.get("m").chunks, manuals.get("w").chunks] == [2, 4]  # type: ignore[union-attr]


def test_a_text_without_breaks_is_cut_in_linear_time() -> None:
    def measured(text: str) -> int:
        seen = 0

        def measure(part: str) -> int:
            nonlocal seen
            seen += len(part)
            return len(part)

        chunks = Splitter(size=500, overlap=50, measure=measure).chunks(Loaded("", "text/plain", text))
        assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
        covered = 0
        for chunk in chunks:
            assert not text[covered : chunk.start].strip()
            covered = chunk.end
        assert not text[covered:].strip()
        return seen

    for text in (
        "".join(chr(0x4E00 + number * 7919 % 9000) for number in range(10_000)),
        "a" * 10_000,
        "word " * 2_000,
    ):
        assert measured(text * 2) < 3 * measured(text)
        assert measured(text * 4) < 5 * measured(text)


def test_the_standard_librarys_documentation(edge: Edge) -> None:
    """Ten questions with the module that has to be among the first five."""
    manuals = edge.agent("guide").documents("stdlib")
    names = [
        "json",
        "csv",
        "zipfile",
        "gzip",
        "heapq",
        "bisect",
        "random",
        "statistics",
        "calendar",
        "argparse",
        "logging",
        "socket",
        "threading",
        "queue",
        "sqlite3",
        "tempfile",
        "shutil",
        "glob",
        "fnmatch",
        "difflib",
        "textwrap",
        "string",
        "struct",
        "hashlib",
        "hmac",
        "secrets",
        "base64",
        "binascii",
        "urllib.parse",
        "http.client",
        "smtplib",
        "email.message",
        "decimal",
        "fractions",
        "itertools",
        "functools",
        "contextlib",
    ]
    for name in names:
        manuals.add(pydoc.plain(pydoc.render_doc(__import__(name, fromlist=["x"]))), id=name, title=name)
    questions = {
        "json": "serialize an object to a JSON formatted string",
        "csv": "dialect delimiter quotechar of comma separated rows",
        "heapq": "priority queue smallest item heap invariant",
        "bisect": "insertion point in a sorted list",
        "statistics": "median and standard deviation of data",
        "tempfile": "create a temporary directory that is removed",
        "difflib": "compare sequences of lines and produce a delta",
        "secrets": "cryptographically strong random token for passwords",
        "decimal": "rounding precision context of decimal arithmetic",
        "argparse": "parse command line arguments optional positional",
    }
    for module, question in questions.items():
        found = [hit.document.id for hit in manuals.search(question, k=5)]
        assert module in found, (question, found)
    position = edge.log.position
    text = manuals.text("json")
    again = manuals.add(pydoc.plain(pydoc.render_doc(__import__("json"))), id="json", title="json")
    assert (again.written, again.deleted, edge.log.position) == (0, 0, position)
    assert "serialize" in text.lower()
