"""The Fleet screen's lines add up at every size; charts start at zero."""

from hypothesis import given, strategies as st

from cortex_tui.format import ASCII, UNICODE
from cortex_tui.screens.plan import plan
from cortex_tui.widgets.chart import area, buckets, pulse


@given(
    st.integers(60, 300), st.integers(16, 100), st.integers(0, 70), st.integers(0, 99)
)
def test_every_line_is_given_to_somebody(
    width: int, height: int, nodes: int, models: int
) -> None:
    p = plan(width, height, nodes, models)
    main = p.models if p.swap_main else p.nodes + p.models
    assert 2 + p.charts + p.pulse + main + p.bottom == height
    assert min(p.nodes, p.models, p.bottom) >= 3


def test_the_usual_sizes() -> None:
    narrow, usual, wide = plan(60, 16, 4, 9), plan(80, 24, 4, 9), plan(140, 40, 4, 9)
    assert narrow.swap_main
    assert not usual.swap_main
    assert (narrow.charts, usual.charts, wide.charts) == (0, 0, 7)
    assert (usual.both_bottom, wide.both_bottom) == (False, True)
    assert usual.nodes == 6, "all four nodes are visible at 80x24"


def test_slots_hold_means_and_gaps() -> None:
    points = [(100.0, 2.0), (101.0, 4.0), (104.0, None), (106.0, 9.0)]
    assert buckets(points, now=107.0, columns=150)[-4:] == [3.0, None, None, 9.0]


def test_the_picture_stands_still_until_a_slot_is_complete() -> None:
    points = [(float(t), float(t % 7)) for t in range(1000, 1300)]
    first = buckets(points, now=1300.0, columns=100)
    assert buckets(points, now=1301.9, columns=100) == first
    assert buckets(points, now=1302.0, columns=100) != first


def test_an_area_starts_at_zero() -> None:
    assert area([0.0, 50.0, 100.0], peak=100.0, height=2, g=UNICODE) == ["  █", " ██"]
    assert area([199.0, 201.0], peak=201.0, height=1, g=UNICODE) == ["██"]
    assert area([None, 0.0, 0.001], peak=1.0, height=1, g=UNICODE) == ["  ▁"]


def test_charts_in_ascii() -> None:
    lines = area([0.0, 1.0, 4.0], peak=4.0, height=2, g=ASCII)
    assert "".join(lines).isascii()
    assert pulse([(10.0, 5.0)], now=10.0, width=5, g=ASCII) == "    #"


def test_a_pulse_of_nothing_is_blank() -> None:
    assert pulse([], now=10.0, width=8, g=UNICODE) == " " * 8
