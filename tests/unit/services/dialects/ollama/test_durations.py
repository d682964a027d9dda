"""`keep_alive`, as numbers and as Go writes durations."""

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.dialects.ollama.durations import keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        ("0", 0),
        ("0s", 0),
        (300, 300),
        (0.5, 0.5),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("+2s", 2),
        ("250ms", 0.25),
        ("1m0.5s", 60.5),
        ("100µs", 1e-4),
        (-1, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        ("9999999h", math.inf),
        (1e300, math.inf),
    ],
)
def test_a_duration_is_seconds(value: Any, seconds: float | None) -> None:
    assert keep_alive(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "m", "5 m", "5d", "5m!", "1h-5m", "1.2.3s", "forever", True, [], {}]
)
def test_what_is_no_duration_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ApiError, match=r"^keep_alive: should be seconds") as caught:
        keep_alive(value)
    assert (caught.value.status, caught.value.param) == (400, "keep_alive")


def test_what_is_long_is_refused_as_soon() -> None:
    for text in ("1" * 200_000 + "x", "1s" * 100_000 + "x"):
        with pytest.raises(ApiError):
            keep_alive(text)


@given(st.integers(0, 999), st.integers(0, 59), st.integers(0, 59))
def test_hours_minutes_and_seconds_add_up(hours: int, minutes: int, s: int) -> None:
    text = f"{hours}h{minutes}m{s}s"
    assert keep_alive(text) == hours * 3600 + minutes * 60 + s
