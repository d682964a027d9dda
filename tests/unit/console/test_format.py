"""Short texts: exact widths, and unknown never looks like zero."""

import dataclasses

import pytest
from hypothesis import given, strategies as st

from cortex_tui import format as f


@given(st.text(max_size=60), st.integers(0, 40))
def test_fit_is_exactly_as_wide_as_asked(text: str, width: int) -> None:
    assert f.cells(f.fit(f.clean(text), width)) == width
    assert f.cells(f.fit(f.clean(text), width, "right")) == width


@given(st.text(max_size=60), st.integers(2, 40))
def test_middle_keeps_both_ends_and_never_exceeds(text: str, width: int) -> None:
    cut = f.middle(f.clean(text), width)
    assert f.cells(cut) <= width


def test_middle_cuts_in_the_middle() -> None:
    name = "org/Qwen2.5-Coder-32B-Instruct-exl2-6.0bpw"
    assert f.middle(name, 20) == "org/Qwen2.…l2-6.0bpw"


@given(st.text(max_size=80))
def test_clean_leaves_one_printable_line(text: str) -> None:
    assert f.clean(text).isprintable()


def test_clean_disarms_escape_sequences() -> None:
    assert f.clean("a\x1b[2Jb\nc") == "a·[2Jb c"


def test_wide_characters_take_two_cells_and_marks_none() -> None:
    assert f.cells("模型") == 4
    assert f.cells("e\N{COMBINING ACUTE ACCENT}") == 1
    assert f.fit("模型-a", 4) == "模… "


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (f.count(None), "–"),
        (f.count(0), "0"),
        (f.count(1284), "1,284"),
        (f.count(12_800), "12.8k"),
        (f.count(3_100_000), "3.1M"),
        (f.rate(None), "–"),
        (f.rate(0.0), "0"),
        (f.rate(7.26), "7.3"),
        (f.rate(512.4), "512"),
        (f.mib(None), "–"),
        (f.mib(0), "0M"),
        (f.mib(512), "512M"),
        (f.mib(9626), "9.4G"),
        (f.mib(115_712), "113G"),
        (f.mib(2_500_000), "2.4T"),
        (f.size(20 * 2**20), "20M"),
        (f.pair(41_900, 81_559), "40.9/79.6G"),
        (f.pair(300, 24_576), "300M/24.0G"),
        (f.pair(None, 24_576), "–/24.0G"),
        (f.pair(None, None), "–/–"),
        (f.seconds(None), "–"),
        (f.seconds(0), "0.00s"),
        (f.seconds(0.24), "0.24s"),
        (f.seconds(4.12), "4.1s"),
        (f.seconds(125), "2m05s"),
        (f.age(11_520), "3h12m"),
        (f.age(273_600), "3d04h"),
        (f.short_age(48.9), "48s"),
        (f.short_age(640), "10m"),
        (f.short_age(4 * 86_400), "4d"),
        (f.short_age(None), "–"),
        (f.percent(None), "–"),
        (f.percent(0), "0%"),
        (f.plural(1, "request"), "1 request"),
        (f.plural(0, "request"), "0 requests"),
    ],
)
def test_written(written: str, expected: str) -> None:
    assert written == expected


@given(st.none() | st.floats(0, 1e9))
def test_an_age_in_three_cells_fits_four(value: float | None) -> None:
    assert f.cells(f.short_age(value)) <= 4


def test_share_of_nothing_is_unknown() -> None:
    assert f.share(0, 0) is None
    assert f.share(43, 100) == 43
    assert f.share(7, 5) == 100


@given(st.none() | st.floats(-1, 2), st.integers(1, 30), st.booleans())
def test_a_bar_fills_its_width(
    fraction: float | None, width: int, ascii_only: bool
) -> None:
    full, empty = f.bar(fraction, width, f.glyphs(ascii_only))
    assert f.cells(full + empty) == width


def test_a_bar_shows_a_little_as_more_than_nothing() -> None:
    assert f.bar(0.001, 10, f.UNICODE)[0] == "▏"
    assert f.bar(0.0, 10, f.UNICODE)[0] == ""
    assert f.bar(None, 10, f.UNICODE)[0] == ""


def test_the_ascii_table_is_ascii_and_complete() -> None:
    for field in dataclasses.fields(f.Glyphs):
        assert getattr(f.ASCII, field.name).isascii()
        assert getattr(f.ASCII, field.name) or field.name == "ellipsis"


def test_every_glyph_but_words_takes_one_cell() -> None:
    for field in dataclasses.fields(f.Glyphs):
        assert all(f.cells(c) == 1 for c in getattr(f.UNICODE, field.name))


@given(st.floats(1e-3, 1e6))
def test_the_axis_reaches_just_above_the_largest_value(value: float) -> None:
    ceiling = f.nice_ceiling(value)
    assert value <= ceiling <= value * 2
