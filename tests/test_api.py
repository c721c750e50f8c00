"""The API reference is what the docstrings say now, and they say something."""

from __future__ import annotations

import re

import edge
from simulations import api_reference

PAGE = api_reference.PAGE.read_text(encoding="utf-8")


def test_the_page_is_that_of_these_sources() -> None:
    assert api_reference.render() == PAGE, "python -m simulations api"


def test_every_public_name_is_in_it() -> None:
    named = set(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE))
    named |= set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) | set(re.findall(r"\*\*(\w+)\*\*", PAGE))
    assert sorted({*edge.__all__} - named) == []


def test_every_method_says_something() -> None:
    silent = re.findall(r"^#### ([\w.]+)\n\n```python\n(?:[^`]*)```\n\n\n", PAGE, re.MULTILINE)
    assert silent == []


def test_an_example_of_each_kind() -> None:
    assert "    expected: str | object | None = ANY,\n" in PAGE
    assert re.search(r"^valid_at: int$", PAGE, re.MULTILINE), "the fields of a tuple"
    assert "HttpEmbedder(" in PAGE, "how to build what callers build"
    assert "\nMemory(" not in PAGE, "and not what they get from elsewhere"
    assert "``" not in PAGE.replace("```", "")
