"""Join tokens: the text form, and that damaged ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import BadSignature, InvalidValue
from sync.keys import PublicIdentity
from sync.tokens import PREFIX, JoinToken, fingerprint, parse_token

TOKEN = JoinToken(bytes(range(16)), b"s" * 32, b"f" * 16, b"p" * 32, "http://127.0.0.1:7700")

ROOTED = TOKEN._replace(root=b"r" * 32)


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.text(max_size=100),
)
def test_round_trip(token_id: bytes, secret: bytes, fleet: bytes, mark: bytes, url: str) -> None:
    token = JoinToken(token_id, secret, fleet, mark, url)
    assert parse_token(f"  {token.encode()}\n") == token


def test_of_a_fleet_with_signed_targets_it_has_the_digest_of_their_first_root() -> None:
    assert ROOTED.encode().startswith("agentdb2.")
    assert parse_token(ROOTED.encode()) == ROOTED
    assert TOKEN.encode().startswith("agentdb1."), "devices of the first version can join any other fleet"


def test_every_cut_and_every_changed_character_is_noticed_or_changes_the_token() -> None:
    text = TOKEN.encode()
    for length in range(len(text)):
        with pytest.raises(InvalidValue):
            parse_token(text[:length])
    for index in range(len(PREFIX)):
        with pytest.raises(InvalidValue):
            parse_token(text[:index] + "\N{BULLET}" + text[index + 1 :])
    for index in range(len(PREFIX), len(text)):
        for changed in "A%=\N{BULLET}":
            try:
                token = parse_token(text[:index] + changed + text[index + 1 :])
            except InvalidValue:
                continue
            assert changed == "A"
            assert (token == TOKEN) == (text[index] == "A")


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        b"agentdb1.",
        "agentdb2." + TOKEN.encode()[len(PREFIX) :],
        PREFIX + ROOTED.encode()[len(PREFIX) :],
        "agentdb3." + ROOTED.encode()[len(PREFIX) :],
        PREFIX,
        PREFIX + "gA",
        TOKEN.encode() + "\n" + TOKEN.encode(),
        PREFIX + "A" * 5000,
        TOKEN.encode() + "====",
    ],
)
def test_what_is_not_a_token(text: Any) -> None:
    with pytest.raises(InvalidValue):
        parse_token(text)


def test_a_token_does_not_print_its_secret() -> None:
    assert "ss" not in repr(TOKEN)
    assert b"s".hex() * 4 not in repr(TOKEN)


def test_the_fingerprint_names_one_cloud() -> None:
    cloud = PublicIdentity(b"a" * 32, b"b" * 32)
    token = TOKEN._replace(fingerprint=fingerprint(cloud))
    token.vouches_for(cloud)
    with pytest.raises(BadSignature):
        token.vouches_for(PublicIdentity(b"a" * 32, b"c" * 32))
