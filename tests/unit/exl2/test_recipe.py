"""Mixes of widths that hit the size that was asked for."""

import pytest
from hypothesis import given, strategies as st

from neuron.exl2.recipe import LayerShape, mixed, stored_bits, uniform
from tests.unit.exl2.support import reproducible

_shapes = st.lists(
    st.builds(
        LayerShape,
        in_features=st.integers(2, 40).map(lambda blocks: 32 * blocks),
        out_features=st.integers(64, 600),
    ),
    min_size=1,
    max_size=10,
)


@reproducible
@given(
    shapes=_shapes, bits=st.floats(3.5, 8), group_rows=st.sampled_from([32, 64, 128])
)
def test_the_mean_is_within_half_a_step_of_the_target(
    shapes: list[LayerShape], bits: float, group_rows: int
) -> None:
    plans = mixed(shapes, bits, group_rows)
    stored = sum(stored_bits(s, p) for s, p in zip(shapes, plans, strict=True))
    asked = bits * sum(shape.weights for shape in shapes)
    step = 2 * group_rows * max(shape.columns for shape in shapes)  # 8 bits less 6
    most = sum(stored_bits(s, uniform(s, 8, group_rows)) for s in shapes)
    assert stored >= min(asked, most) - step
    assert stored <= asked + step / 2 + 1
    for shape, plan in zip(shapes, plans, strict=True):
        widths = [width for width, _ in plan]
        assert widths == sorted(widths, reverse=True)
        assert sum(rows for _, rows in plan) == shape.in_features


def test_what_one_layer_overspends_the_next_one_saves() -> None:
    shapes = [LayerShape(64, 1024)] * 4
    plans = mixed(shapes, 4.66, 32)
    assert [[bits for bits, _ in plan] for plan in plans] == [
        [5, 4],
        [5, 4],
        [5, 4],
        [5, 4],
    ]
    plans = mixed(shapes, 4.4, 32)
    assert [[bits for bits, _ in plan] for plan in plans] == [
        [4, 4],
        [5, 4],
        [4, 4],
        [5, 4],
    ]


def test_sizes_are_those_of_the_tensors() -> None:
    # 2 groups of 32 rows at 4 and 3 bits, 50 features in 64 columns
    expected = (4 + 3) * 32 * 64 + 2 * (4 * 64 + 16 + 32) + 32 * 64
    assert stored_bits(LayerShape(64, 50), ((4, 32), (3, 32))) == expected


def test_fewer_bits_than_two_and_the_overhead_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\.0 bits .* take 2\.\d+ to 8\.\d+"):
        mixed([LayerShape(128, 128)], 2.0, 32)
