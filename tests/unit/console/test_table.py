"""Columns share a width exactly, and the important ones stay longest."""

from hypothesis import given, strategies as st

from cortex_tui import rows
from cortex_tui.format import cells
from cortex_tui.table import Column, Row, cell, draw_row, header, lay_out, plain

COLUMNS = (
    Column("name", "NAME", 8, 1, flex=20),
    Column("state", "STATE", 6, 2),
    Column("size", "SIZE", 5, 3, "right"),
)


@given(st.integers(8, 200), st.text(max_size=30), st.text(max_size=30))
def test_a_row_is_as_wide_as_its_header(width: int, name: str, state: str) -> None:
    layout = lay_out(COLUMNS, width)
    row = Row("k", {"name": cell(name), "state": cell(state)})
    drawn = "".join(text for text, _ in draw_row(layout, row))
    assert cells(drawn) == cells(header(layout)) <= width


def test_columns_go_by_priority() -> None:
    assert [c.key for c, _ in lay_out(COLUMNS, 30)] == ["name", "state", "size"]
    assert [c.key for c, _ in lay_out(COLUMNS, 16)] == ["name", "state"]
    assert [c.key for c, _ in lay_out(COLUMNS, 10)] == ["name"]


def test_what_is_left_over_goes_to_the_flexible_column_up_to_its_limit() -> None:
    assert {c.key: w for c, w in lay_out(COLUMNS, 31)}["name"] == 18
    assert {c.key: w for c, w in lay_out(COLUMNS, 200)}["name"] == 28


@given(st.integers(58, 250))
def test_the_screens_tables_never_exceed_their_width(width: int) -> None:
    for columns in (rows.NODES, rows.MODELS, rows.EVENTS):
        assert cells(header(lay_out(columns, width))) <= width


def test_the_narrowest_screen_keeps_what_answers_the_first_question() -> None:
    assert {c.key for c, _ in lay_out(rows.MODELS, 58)} >= {"model", "state", "node"}
    at_80 = {c.key for c, _ in lay_out(rows.NODES, 78)}
    assert at_80 >= {"node", "state", "device", "util", "memory"}


def test_cells_of_several_tones_keep_their_width() -> None:
    row = Row("k", {"name": (("ab", "good"), ("cd", "muted"))})
    assert list(draw_row(lay_out(COLUMNS, 8), row)) == [
        ("ab", "good"),
        ("cd", "muted"),
        ("    ", ""),
    ]


def test_long_model_names_keep_their_ends() -> None:
    name = "org/Qwen2.5-Coder-32B-Instruct-exl2-6.0bpw"
    row = Row("k", {"model": cell(name)})
    drawn = "".join(text for text, _ in draw_row(lay_out(rows.MODELS, 58), row))
    assert "…" in drawn
    assert "6.0bpw " in drawn


def test_plain_text_is_aligned_and_has_no_trailing_blanks() -> None:
    shown = [
        Row("1", {"name": cell("a"), "state": cell("ready"), "size": cell("7")}),
        Row("2", {"name": cell("longer-name"), "size": cell("1234")}),
    ]
    assert plain(COLUMNS, shown) == [
        "NAME         STATE  SIZE",
        "a            ready     7",
        "longer-name         1234",
    ]
