"""Quantized layers: nearest levels, whatever the widths, groups, order and padding."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from neuron.exl2 import open_model
from neuron.exl2.bitstream import WIDTHS
from neuron.exl2.exl2_linear import Group, effective_scales
from neuron.exl2.quantize import group_sizes, quantize_linear
from tests.unit.exl2.support import reproducible, save, scalar_dequantize


def gaussian(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)).astype(np.float32)


def relative_error(
    weight: NDArray[np.float32], groups: Sequence[tuple[int, int]]
) -> float:
    difference = weight - quantize_linear(weight, groups).dequantize()
    return float(np.linalg.norm(difference) / np.linalg.norm(weight))


_groups = st.lists(
    st.tuples(st.sampled_from(WIDTHS), st.sampled_from([32, 64, 96])),
    min_size=1,
    max_size=4,
).map(lambda groups: sorted(groups, key=lambda group: -group[0]))


@reproducible
@given(
    groups=_groups,
    features=st.integers(1, 70),
    scale=st.sampled_from([1e-7, 1e-3, 1.0, 1000.0]),
    seed=st.integers(0, 2**32 - 1),
    with_bias=st.booleans(),
)
def test_a_layer_survives_its_file_and_holds_the_nearest_levels(
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[tuple[int, int]],
    features: int,
    scale: float,
    seed: int,
    with_bias: bool,
) -> None:
    rows = sum(count for _, count in groups)
    weight = gaussian(rows, features, seed) * np.float32(scale)
    rng = np.random.default_rng(seed)
    order, bias = rng.permutation(rows), rng.standard_normal(features)
    made = quantize_linear(
        weight, groups, order=order, bias=bias if with_bias else None
    )
    file = tmp_path_factory.mktemp("layer") / "x.safetensors"
    save(file, {f"layer.{name}": t for name, t in made.tensors().items()})
    read = open_model(file).linear("layer", features)
    result = read.dequantize()
    assert np.array_equal(result, made.dequantize())
    expected = np.array(scalar_dequantize(made.tensors()))
    assert np.array_equal(result, expected[:, :features])
    assert (read.bias is not None) == with_bias
    if read.bias is not None:
        assert np.array_equal(read.bias, bias.astype(np.float16))
    _assert_nearest(
        weight[order],
        result[order],
        made.groups,
        effective_scales(made.q_scale, made.q_scale_max)[:, :features],
    )


def _assert_nearest(
    weight: NDArray[np.float32],
    result: NDArray[np.float16],
    groups: Sequence[Group],
    scales: NDArray[np.float16],
) -> None:
    """No level of its group would have been closer to any weight, in packed order."""
    first = 0
    for group, scale in zip(groups, scales.astype(np.float64), strict=True):
        rows = slice(first, first + group.rows)
        first += group.rows
        half = 1 << (group.bits - 1)
        levels = np.arange(-half, half)[:, None, None] * scale
        closest = np.abs(levels - weight[rows]).min(axis=0)
        chosen = np.abs(result[rows].astype(np.float64) - weight[rows])
        rounding = 2**-11 * np.abs(result[rows]) + 2**-25  # of the stored half
        assert (chosen <= closest + rounding + 1e-6 * scale).all()


@pytest.mark.parametrize(
    ("bits", "bound"),
    [(2, 0.39), (3, 0.185), (4, 0.093), (5, 0.047), (6, 0.0235), (8, 0.006)],
)
def test_gaussian_weights_lose_no_more_than_the_width_must(
    bits: int, bound: float
) -> None:
    """The best uniform quantizer with one scale for all loses 0.345, 0.193, 0.107,
    0.059, 0.032 and 0.0099 of a Gaussian (Max 1960). A scale for every 32 weights of
    a column does better, but for 2 bits, whose levels -2 to 1 lie unevenly."""
    assert relative_error(gaussian(256, 128), [(bits, 32)] * 8) < bound


@pytest.mark.parametrize("bits", WIDTHS)
def test_scales_follow_columns_of_very_different_size(bits: int) -> None:
    """Index² spans 1 to 256, so columns over two decades keep their precision."""
    size = np.logspace(-2, 0, 64, dtype=np.float32)
    weight = gaussian(64, 64) * size
    result = quantize_linear(weight, [(bits, 64)]).dequantize()
    errors = np.linalg.norm(weight - result, axis=0) / np.linalg.norm(weight, axis=0)
    assert errors.max() < 8 * np.median(errors)


def test_weights_that_levels_can_hold_come_back_exactly() -> None:
    levels = np.random.default_rng(0).integers(-8, 8, (32, 32))
    levels[0], levels[1] = -8, 7
    weight = levels.astype(np.float32) * np.float32(0.25)
    assert np.array_equal(quantize_linear(weight, [(4, 32)]).dequantize(), weight)


def test_the_order_only_says_where_a_row_lies() -> None:
    weight = gaussian(96, 40)
    order = np.random.default_rng(1).permutation(96)
    groups = [(6, 32), (3, 64)]
    moved = quantize_linear(weight[order], groups).dequantize()
    assert np.array_equal(
        quantize_linear(weight, groups, order=order).dequantize()[order], moved
    )


def test_zeros_stay_zeros() -> None:
    weight = gaussian(64, 33)
    weight[:, 5] = 0
    weight[32:] = 0
    result = quantize_linear(weight, [(4, 32), (4, 32)]).dequantize()
    assert not result[:, 5].any()
    assert not result[32:].any()


def test_columns_that_pad_hold_zeros() -> None:
    tensors = quantize_linear(gaussian(32, 33), [(3, 32)]).tensors()
    assert tensors["q_weight"].shape == (3, 64)
    assert not np.array(scalar_dequantize(tensors))[:, 33:].any()


@pytest.mark.parametrize(
    ("rows", "groups", "reason"),
    [
        (48, [(4, 48)], "48 input features"),
        (64, [(4, 32)], "do not add up to 64"),
        (64, [(4, 32), (5, 32)], "descending order"),
        (64, [(4, 64), (4, 0)], "positive multiples"),
        (64, [(4, 40), (4, 24)], "positive multiples"),
        (65568, [(4, 65568)], "at most 65535"),
    ],
)
def test_groups_that_the_format_cannot_hold_are_refused(
    rows: int, groups: list[tuple[int, int]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        quantize_linear(np.zeros((rows, 1), dtype=np.float32), groups)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 65520.0, -1e30])
def test_numbers_that_float16_cannot_hold_are_refused(number: float) -> None:
    weight = gaussian(32, 32)
    weight[7, 7] = number
    with pytest.raises(ValueError, match="beyond float16's range"):
        quantize_linear(weight, [(4, 32)])


def test_no_output_features_are_refused() -> None:
    with pytest.raises(ValueError, match="no output features"):
        quantize_linear(np.zeros((32, 0), dtype=np.float32), [(4, 32)])


def test_the_last_group_takes_what_is_left() -> None:
    assert group_sizes(288, 128) == [128, 128, 32]
    assert group_sizes(256, 128) == [128, 128]
    assert group_sizes(32, 128) == [32]
    with pytest.raises(ValueError, match="groups of 48 rows"):
        group_sizes(96, 48)
