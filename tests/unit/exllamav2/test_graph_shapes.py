"""Few shapes, and little padding."""

import pytest
from hypothesis import given, strategies as st

from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes


def test_few_rows_are_exact_and_more_go_in_steps_of_the_kernel() -> None:
    assert GraphShapes.of(16, 32).rows == (1, 2, 3, 4, 8, 12, 16)
    assert GraphShapes.of(80, 32).rows[-6:] == (24, 28, 32, 48, 64, 80)


def test_widths_end_at_the_longest_sequence() -> None:
    assert GraphShapes.of(1, 32).widths == (4, 16, 32)
    assert GraphShapes.of(1, 3).widths == (3,)


@given(
    most=st.integers(1, 300), pages=st.integers(1, 5000), data=st.data()
)  # fmt: skip
def test_every_batch_fits_with_bounded_padding(
    most: int, pages: int, data: st.DataObject
) -> None:
    shapes = GraphShapes.of(most, pages)
    rows = data.draw(st.integers(1, most))
    width = data.draw(st.integers(1, pages))
    fit_rows, fit_width = shapes.fit(rows, width)
    assert rows <= fit_rows < rows + 16
    assert width <= fit_width <= max(4, 4 * width)
    assert len(shapes.rows) * len(shapes.widths) < 30 * 8


@pytest.mark.parametrize(("rows", "width"), [(17, 1), (1, 33)])
def test_refuses_what_is_larger(rows: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} sequences of {width} pages"):
        GraphShapes.of(16, 32).fit(rows, width)
