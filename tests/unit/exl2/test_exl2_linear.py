"""EXL2 layers as they are read: by hand, bit by bit, and when they do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from neuron.exl2 import FormatError, open_model
from neuron.exl2.bitstream import WIDTHS
from neuron.exl2.exl2_linear import Exl2Linear
from tests.unit.exl2.support import reproducible, save, scalar_dequantize

Tensors = dict[str, NDArray[Any]]


def random_layer(groups: list[tuple[int, int]], columns: int, seed: int) -> Tensors:
    """Tensors of (bits, rows) groups, every bit of them random."""
    rng = np.random.default_rng(seed)
    rows = sum(count for _, count in groups)
    pairs, words = [], 0
    for bits, count in groups:
        pairs += [bits, words]
        words += bits * count // 32

    def any_bits(*shape: int) -> NDArray[np.int32]:
        return rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.int32)

    return {
        "q_weight": any_bits(words, columns),
        "q_scale": any_bits(len(groups), columns // 8),
        "q_scale_max": rng.uniform(1e-6, 8, len(groups)).astype(np.float16),
        "q_groups": np.array(pairs, dtype=np.int16),
        "q_invperm": rng.permutation(rows).astype(np.int32),
    }


def stored(folder: Path, tensors: Tensors, key: str = "layer") -> Path:
    save(folder / "x.safetensors", {f"{key}.{n}": t for n, t in tensors.items()})
    return folder


@pytest.fixture
def layer() -> Tensors:
    return random_layer([(5, 64), (4, 32)], 64, seed=1)


def test_a_layer_computed_by_hand(tmp_path: Path) -> None:
    q_weight = np.zeros((4, 32), dtype=np.uint32)
    q_weight[0, 0] = 0x76543210  # column 0: values 0 to 7, then 0
    q_weight[1, 1] = 0xF  # column 1: the ninth value is 15
    q_scale = np.zeros((1, 4), dtype=np.uint32)
    q_scale[0, 0] = 0x31  # scale index 2 for column 0, 4 for column 1, else 1
    stored(
        tmp_path,
        {
            "q_weight": q_weight.view(np.int32),
            "q_scale": q_scale.view(np.int32),
            "q_scale_max": np.array([64], dtype=np.float16),  # a quarter times index²
            "q_groups": np.array([4, 0], dtype=np.int16),
            "q_invperm": np.roll(np.arange(32, dtype=np.int32), 1),  # 31, 0, 1, …
        },
    )
    weight = open_model(tmp_path).linear("layer").dequantize()
    assert weight.dtype == np.float16
    # Packed row p is original row p + 1; levels are values less 8.
    assert weight[1:9, 0].tolist() == [-8, -7, -6, -5, -4, -3, -2, -1]
    assert weight[[9, 31, 0], 0].tolist() == [-8, -8, -8]
    assert weight[9, 1] == 7 * 4
    assert weight[10, 1] == -8 * 4
    assert weight[5, 2] == -8 * 0.25


_widths = st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=6)


@reproducible
@given(
    widths=_widths.map(lambda widths: sorted(widths, reverse=True)),
    rows=st.lists(st.sampled_from([32, 64, 96]), min_size=6, max_size=6),
    blocks=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_layer_is_what_its_bits_say(
    tmp_path_factory: pytest.TempPathFactory,
    widths: list[int],
    rows: list[int],
    blocks: int,
    seed: int,
) -> None:
    groups = list(zip(widths, rows, strict=False))
    tensors = random_layer(groups, 32 * blocks, seed)
    linear = open_model(stored(tmp_path_factory.mktemp("layer"), tensors)).linear(
        "layer"
    )
    assert np.array_equal(linear.dequantize(), scalar_dequantize(tensors))


@pytest.mark.parametrize("columns", [32, 20_000])
def test_chunks_of_any_size_give_the_same(columns: int, tmp_path: Path) -> None:
    """20,000 columns are dequantized block by block, 32 in one go."""
    tensors = random_layer([(3, 64), (2, 64)], columns - columns % 32, seed=3)
    linear = open_model(stored(tmp_path, tensors)).linear("layer")
    weight = linear.dequantize()
    narrow = {n: t[:, :32] for n, t in tensors.items() if n == "q_weight"}
    narrow |= {n: t[:, :4] for n, t in tensors.items() if n == "q_scale"}
    assert np.array_equal(weight[:, :32], scalar_dequantize(tensors | narrow))


def test_subnormal_and_huge_scales_round_as_halves_do(
    tmp_path: Path, layer: Tensors
) -> None:
    """The second group's largest weights are beyond float16: infinite on both."""
    layer["q_scale_max"] = np.array([6e-5, 60000], dtype=np.float16)
    linear = open_model(stored(tmp_path, layer)).linear("layer")
    assert np.array_equal(linear.dequantize(), scalar_dequantize(layer))


def test_columns_that_pad_are_cut_and_a_bias_is_given(
    tmp_path: Path, layer: Tensors
) -> None:
    layer["bias"] = np.arange(64, dtype=np.float16)
    linear = open_model(stored(tmp_path, layer)).linear("layer", out_features=50)
    assert (linear.in_features, linear.out_features) == (96, 50)
    assert linear.dequantize().shape == (96, 50)
    assert linear.bias is not None
    assert linear.bias.tolist() == list(range(50))


def test_a_bias_without_padding_is_taken_as_it_is(
    tmp_path: Path, layer: Tensors
) -> None:
    layer["bias"] = np.arange(50, dtype=np.float32)
    linear = open_model(stored(tmp_path, layer)).linear("layer", out_features=50)
    assert linear.bias is not None
    assert linear.bias.shape == (50,)


def test_a_layer_gives_back_the_tensors_it_was_read_from(
    tmp_path: Path, layer: Tensors
) -> None:
    layer["bias"] = np.arange(64, dtype=np.float16)
    linear = open_model(stored(tmp_path, layer)).linear("layer")
    assert isinstance(linear, Exl2Linear)
    again = linear.tensors()
    assert again.keys() == layer.keys()
    for name, tensor in layer.items():
        assert again[name].dtype == tensor.dtype
        assert np.array_equal(again[name], tensor), name
    assert linear.stored_bits == 8 * sum(
        t.nbytes for name, t in layer.items() if name != "bias"
    )


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("q_groups", [5, 0, 7, 10], "7 bits"),
        ("q_groups", [4, 0, 5, 8], "order must descend"),
        ("q_groups", [5, 1, 4, 10], "starts at word 1"),
        ("q_groups", [5, 0, 4, 11], "spans words 0 to 11"),
        ("q_groups", [5, 0, 4, 0], "spans words 0 to 0"),
        ("q_groups", [5, 0, 4, 90], "spans words 0 to 90"),
        ("q_groups", [5, 0, 4, -1], "spans words 0 to 65535"),
        ("q_groups", [5, 0, 4], "must hold pairs"),
        ("q_groups", [], "must hold pairs"),
        ("q_groups", [5, 0], "q_scale"),
        ("q_invperm", [0] * 96, "not a permutation"),
        ("q_invperm", [*range(95), 96], "not a permutation"),
        ("q_invperm", [*range(95), -1], "not a permutation"),
        ("q_invperm", [*range(64)], "must be I32 96"),
        ("q_scale_max", [1.0], "must be F16 2"),
        ("bias", [1.0] * 63, "bias"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path, layer: Tensors, part: str, value: list[float], reason: str
) -> None:
    kind = layer["q_scale_max"].dtype if part == "bias" else layer[part].dtype
    layer[part] = np.array(value, dtype=kind)
    model = open_model(stored(tmp_path, layer))
    with pytest.raises(FormatError) as caught:
        model.linear("layer")
    assert reason in str(caught.value)
    assert caught.value.tensor is not None
    assert caught.value.tensor.startswith("layer.")
    assert caught.value.file == tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    "part", ["q_scale", "q_scale_max", "q_groups", "q_invperm", "q_weight"]
)
def test_a_missing_part_is_named(tmp_path: Path, layer: Tensors, part: str) -> None:
    del layer[part]
    model = open_model(stored(tmp_path, layer))
    with pytest.raises(FormatError, match=r"missing|has no q_weight"):
        model.linear("layer")


def test_another_dtype_of_a_part_is_refused(tmp_path: Path, layer: Tensors) -> None:
    layer["q_weight"] = layer["q_weight"].astype(np.int64)
    with pytest.raises(FormatError, match="is I64 14×64, must be I32 any×any"):
        open_model(stored(tmp_path, layer)).linear("layer")


def test_columns_off_a_multiple_of_32_are_refused(
    tmp_path: Path, layer: Tensors
) -> None:
    layer["q_weight"] = layer["q_weight"][:, :40].copy()
    with pytest.raises(FormatError, match="40 columns"):
        open_model(stored(tmp_path, layer)).linear("layer")


@pytest.mark.parametrize("out_features", [32, 65, 0])
def test_output_features_that_the_columns_cannot_hold_are_refused(
    tmp_path: Path, layer: Tensors, out_features: int
) -> None:
    model = open_model(stored(tmp_path, layer))
    with pytest.raises(FormatError, match=f"for {out_features} features"):
        model.linear("layer", out_features)


def test_more_rows_than_the_kernels_can_address_are_refused(tmp_path: Path) -> None:
    tensors = random_layer([(2, 65536)], 32, seed=0)
    with pytest.raises(FormatError, match="over 65535"):
        open_model(stored(tmp_path, tensors)).linear("layer")
