"""The error tree: every class has a code of its own, travels by it, and survives pickling."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import errors
from sync.errors import AgentDBError, SyncError, by_code
from sync.messages import Failure, decode, encode


def tree(cls: type[AgentDBError] = AgentDBError) -> list[type[AgentDBError]]:
    return [cls, *(found for sub in cls.__subclasses__() if sub.__module__ == errors.__name__ for found in tree(sub))]


CLASSES = tree()


def test_codes_are_distinct_and_stable() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    assert all("code" in vars(cls) for cls in CLASSES), "a code is never inherited"


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_is_found_by_its_code_and_drawn_in_the_tree(cls: type[AgentDBError]) -> None:
    assert by_code(cls.code) is cls
    assert re.search(rf"\b{cls.__name__}\b", errors.__doc__ or "")


@given(st.text())
def test_by_code_is_total(code: str) -> None:
    assert by_code(code) is next((cls for cls in CLASSES if cls.code == code), SyncError)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_pickling_and_the_wire(cls: type[AgentDBError]) -> None:
    error = cls("what went wrong", hint="what to do")
    assert str(error) == "what went wrong"
    for copy in (pickle.loads(pickle.dumps(error)), Failure.of(error, 250).error()):
        assert type(copy) is cls
        assert (copy.message, copy.hint, str(copy)) == ("what went wrong", "what to do", "what went wrong")
        assert copy.retryable == cls.retryable
    failure = decode(encode(Failure.of(error, 250)))
    assert failure == Failure(cls.code, "what went wrong", "what to do", cls.retryable, 250)


def test_long_errors_are_cut_to_what_a_message_carries() -> None:
    failure = Failure.of(AgentDBError("x" * 5000, hint="y" * 5000))
    assert decode(encode(failure)) == failure
    assert (len(failure.reason), len(failure.hint)) == (1024, 1024)
