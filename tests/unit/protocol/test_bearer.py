"""The token of a neuron, as it is shown and as it is looked at."""

from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

from neuron.protocol import bearer

TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(TOKENS, TOKENS)
def test_who_shows_it_is_let_in_and_nobody_else(token: str, other: str) -> None:
    headers = bearer.header(token)
    assert bearer.is_shown(token, headers)
    assert bearer.is_shown(other, headers) == (other == token)
    assert not bearer.is_shown(token, {})
    assert not bearer.is_shown(token, {"Authorization": token})
    assert not bearer.is_shown(token, {"Authorization": f"Basic {token}"})
    assert bearer.is_shown(token, {"Authorization": f"bearer  {token} "})


def test_nothing_is_shown_where_there_is_none() -> None:
    assert bearer.header(None) == {}
    assert not bearer.is_shown("a", {"Authorization": "Bearer \udcff\u00e9"})


@pytest.mark.parametrize("value", ["", "two words", "line\n", "\u00e9", 12345678, None])
def test_what_no_header_can_carry_is_refused_unseen(value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(bearer.Token).validate_python(value)
    assert refused.value.errors()[0]["msg"] == "should be text without blanks, in ASCII"
