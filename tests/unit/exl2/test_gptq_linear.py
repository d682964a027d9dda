"""4-bit GPTQ layers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from neuron.exl2 import FormatError, open_model
from tests.unit.exl2.support import half, save

Tensors = dict[str, NDArray[Any]]
ROWS, COLUMNS, GROUPS = 96, 24, 3


@pytest.fixture
def layer() -> Tensors:
    rng = np.random.default_rng(5)

    def any_bits(*shape: int) -> NDArray[np.int32]:
        return rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.int32)

    return {
        "qweight": any_bits(ROWS // 8, COLUMNS),
        "qzeros": any_bits(GROUPS, COLUMNS // 8),
        "scales": rng.uniform(0.001, 2, (GROUPS, COLUMNS)).astype(np.float16),
    }


def scalar_dequantize(layer: Tensors, group_of_row: list[int], added: int) -> Any:
    words = (layer["qweight"].astype(np.int64) & 0xFFFFFFFF).tolist()
    zeros = (layer["qzeros"].astype(np.int64) & 0xFFFFFFFF).tolist()
    scales = layer["scales"].astype(np.float64).tolist()
    return [
        [
            half(
                (
                    (words[row // 8][column] >> 4 * (row % 8) & 15)
                    - (zeros[group][column // 8] >> 4 * (column % 8) & 15)
                    - added
                )
                * scales[group][column]
            )
            for column in range(COLUMNS)
        ]
        for row, group in enumerate(group_of_row)
    ]


def stored(folder: Path, layer: Tensors) -> Path:
    save(folder / "x.safetensors", {f"layer.{n}": t for n, t in layer.items()})
    return folder


def test_rows_go_to_groups_in_order_and_zeros_are_stored_less_one(
    tmp_path: Path, layer: Tensors
) -> None:
    linear = open_model(stored(tmp_path, layer)).linear("layer", COLUMNS)
    assert (linear.in_features, linear.out_features) == (ROWS, COLUMNS)
    expected = scalar_dequantize(layer, [row // 32 for row in range(ROWS)], 1)
    assert np.array_equal(linear.dequantize(), expected)


def test_g_idx_says_the_group_of_each_row(tmp_path: Path, layer: Tensors) -> None:
    g_idx = np.random.default_rng(0).integers(0, GROUPS, ROWS).astype(np.int32)
    layer["g_idx"] = g_idx
    linear = open_model(stored(tmp_path, layer)).linear("layer")
    expected = scalar_dequantize(layer, g_idx.tolist(), 1)
    assert np.array_equal(linear.dequantize(), expected)


def test_a_g_idx_of_zeros_says_nothing(tmp_path: Path, layer: Tensors) -> None:
    layer["g_idx"] = np.zeros(ROWS, dtype=np.int32)
    linear = open_model(stored(tmp_path, layer)).linear("layer")
    expected = scalar_dequantize(layer, [row // 32 for row in range(ROWS)], 1)
    assert np.array_equal(linear.dequantize(), expected)


def test_gptq_v2_stores_the_zeros_as_they_are(tmp_path: Path, layer: Tensors) -> None:
    config = {"quantization_config": {"checkpoint_format": "gptq_v2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    linear = open_model(stored(tmp_path, layer)).linear("layer")
    expected = scalar_dequantize(layer, [row // 32 for row in range(ROWS)], 0)
    assert np.array_equal(linear.dequantize(), expected)


def test_a_bias_of_zeros_is_none(tmp_path: Path, layer: Tensors) -> None:
    layer["bias"] = np.zeros(COLUMNS, dtype=np.float16)
    assert open_model(stored(tmp_path, layer)).linear("layer").bias is None
    layer["bias"][3] = 1
    bias = open_model(stored(tmp_path, layer)).linear("layer").bias
    assert bias is not None
    assert bias[3] == 1


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("g_idx", np.full(ROWS, GROUPS, np.int32), "outside 0 to 2"),
        ("g_idx", np.full(ROWS, -1, np.int32), "outside 0 to 2"),
        ("g_idx", np.zeros(ROWS + 1, np.int32), "must be I32 96"),
        ("qweight", np.zeros((11, COLUMNS), np.int32), "11×24"),
        ("qweight", np.zeros((12, 20), np.int32), "12×20"),
        ("qzeros", np.zeros((GROUPS, 4), np.int32), "must be I32 any×3"),
        ("qzeros", np.zeros((0, 3), np.int32), "has 0 groups"),
        ("scales", np.zeros((2, COLUMNS), np.float16), "must be F16 3×24"),
        ("scales", np.zeros((3, COLUMNS), np.int32), "must be a float"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path, layer: Tensors, part: str, value: NDArray[Any], reason: str
) -> None:
    layer[part] = value
    with pytest.raises(FormatError) as caught:
        open_model(stored(tmp_path, layer)).linear("layer")
    assert reason in str(caught.value)
    assert caught.value.tensor == f"layer.{part}"


def test_another_number_of_output_features_is_refused(
    tmp_path: Path, layer: Tensors
) -> None:
    with pytest.raises(FormatError, match="has 24 output features, not 23"):
        open_model(stored(tmp_path, layer)).linear("layer", 23)
