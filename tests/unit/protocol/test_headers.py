"""What a gateway says about the caller, as a neuron understands it."""

import pytest
from hypothesis import given, strategies as st

from neuron.protocol import headers
from neuron.protocol.errors import ApiError


@given(st.text())
def test_any_name_becomes_a_header(name: str) -> None:
    value = headers.caller_value(name)
    assert value.isascii()
    assert all(c.isprintable() for c in value)
    assert len(value) <= 128
    assert headers.caller({headers.CALLER: value}) == value


def test_nobody_named_is_nobody_of_class_zero() -> None:
    assert (headers.caller({}), headers.priority({})) == ("", 0)
    assert headers.priority({headers.PRIORITY: "-3"}) == -3


def test_a_model_is_named_or_left_out() -> None:
    assert headers.model({}) is None
    assert headers.model({headers.MODEL: "acme/tiny"}) == "acme/tiny"
    for empty in ("", " "):
        with pytest.raises(ApiError) as refusal:
            headers.model({headers.MODEL: empty})
        assert (refusal.value.status, refusal.value.param) == (400, headers.MODEL)


@pytest.mark.parametrize(
    "text", ["", "high", "1.5", "1001", "9" * 5000, "\u0661", "1\n"]
)
def test_a_class_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(ApiError) as refusal:
        headers.priority({headers.PRIORITY: text})
    assert (refusal.value.status, refusal.value.param) == (400, headers.PRIORITY)
