"""How images are sized and laid out, told from a model's files."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from neuron.models.errors import ModelError
from neuron.models.image_sizing import (
    FixedSize,
    ImageSizeError,
    LongestEdge,
    PixelBudget,
    Sizing,
)
from neuron.models.settings import Settings
from neuron.models.vision import VisionInfo, read_vision

_PIXTRAL = "LlavaForConditionalGeneration"
_MISTRAL = "Mistral3ForConditionalGeneration"
_QWEN = "Qwen2_5_VLForConditionalGeneration"
_GEMMA = "Gemma3ForConditionalGeneration"
_TEMPLATES = {
    _PIXTRAL: "[IMG]", _MISTRAL: "[IMG]", _QWEN: "<|image_pad|>",
    _GEMMA: "<start_of_image>",
}  # fmt: skip
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    _PIXTRAL: (
        {"vision_config": {"model_type": "pixtral", "patch_size": 16}},
        {"size": {"longest_edge": 1024}, "resample": 3},
    ),
    _MISTRAL: (
        {
            "vision_config": {"model_type": "pixtral", "patch_size": 14},
            "spatial_merge_size": 2,
        },
        {"size": {"longest_edge": 1540}, "resample": 3},
    ),
    _QWEN: (
        {"vision_config": {"patch_size": 14, "spatial_merge_size": 2}},
        {"min_pixels": 3136, "max_pixels": 12845056},
    ),
    _GEMMA: (
        {
            "vision_config": {"model_type": "siglip_vision_model", "patch_size": 14},
            "mm_tokens_per_image": 256,
        },
        {"size": {"height": 896, "width": 896}, "resample": 2},
    ),
}
"""config.json and preprocessor_config.json as the models were released with, as far as
they matter here."""


def read(
    folder: Path,
    name: str,
    config: dict[str, Any] | None = None,
    preprocessor: dict[str, Any] | None = None,
    template: str | None = None,
) -> VisionInfo | None:
    theirs = CONFIGS[name]
    for file, contents in (
        ("config.json", {**theirs[0], **(config or {})}),
        ("preprocessor_config.json", {**theirs[1], **(preprocessor or {})}),
    ):
        (folder / file).write_text(json.dumps(contents), encoding="utf-8")
    shown = _TEMPLATES[name] if template is None else template
    return read_vision(folder, name, Settings.read(folder / "config.json"), shown)


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        # Two rows of two and their ends; a whole megapixel; half of it.
        (_PIXTRAL, (32, 32), 2 * 3),
        (_PIXTRAL, (1024, 1024), 64 * 65),
        (_PIXTRAL, (2048, 1024), 32 * 65),
        (_PIXTRAL, (1, 1), 2 * 3),
        (_MISTRAL, (28, 28), 2),
        (_MISTRAL, (1540, 1540), 55 * 56),
        (_MISTRAL, (3080, 770), 14 * 56),
        (_QWEN, (56, 56), 4),
        (_QWEN, (1024, 768), 37 * 27),
        (_QWEN, (28, 28), 4),
        (_GEMMA, (17, 4000), 256),
    ],
)
def test_how_many_tokens_an_image_takes(
    tmp_path: Path, name: str, size: tuple[int, int], tokens: int
) -> None:
    vision = read(tmp_path, name)
    assert vision is not None
    assert vision.tokens(*size) == tokens


def test_no_image_takes_more_than_a_few_thousand(tmp_path: Path) -> None:
    vision = read(tmp_path, _QWEN)
    assert vision is not None
    assert 3900 < vision.tokens(8000, 8000) <= 4096
    assert vision.sizing.most_patches == 4 * 4096


def test_rows_of_pixtral_end_as_it_was_trained(tmp_path: Path) -> None:
    vision = read(tmp_path, _MISTRAL)
    assert vision is not None
    one = ["[IMG]"] * 3
    wanted = [*one, "[IMG_BREAK]", *one, "[IMG_END]"]
    assert vision.layout(vision.grid(84, 56)) == wanted


def test_later_names_of_the_same_limits_are_read(tmp_path: Path) -> None:
    old = read(tmp_path, _QWEN)
    new = read(
        tmp_path,
        _QWEN,
        preprocessor={
            "min_pixels": None,
            "max_pixels": None,
            "size": {"shortest_edge": 3136, "longest_edge": 12845056},
        },
    )
    assert old == new


def test_a_template_that_shows_none_makes_a_model_blind(tmp_path: Path) -> None:
    assert read(tmp_path, _QWEN, template="{{ messages }}") is None
    (tmp_path / "preprocessor_config.json").unlink()
    config = Settings.read(tmp_path / "config.json")
    assert read_vision(tmp_path, _QWEN, config, "") is None
    assert read_vision(tmp_path, "LlamaForCausalLM", config, "[IMG]") is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    read(tmp_path, _QWEN)
    (tmp_path / "preprocessor_config.json").unlink()
    config = Settings.read(tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json.*is missing"):
        read_vision(tmp_path, _QWEN, config, _TEMPLATES[_QWEN])


@pytest.mark.parametrize(
    ("name", "config", "preprocessor", "said"),
    [
        (_PIXTRAL, {"vision_config": {}}, {}, "patch_size is missing"),
        (_PIXTRAL, {}, {"size": {}}, "longest_edge is missing"),
        (_PIXTRAL, {}, {"size": {"longest_edge": 1000}}, "no multiple of two patches"),
        (_MISTRAL, {"spatial_merge_size": 3}, {}, "neither 1 nor 2"),
        (_MISTRAL, {}, {"resample": 9}, "resample must be a number below 6"),
        (_QWEN, {}, {"min_pixels": 0.5}, "must be integers in order"),
        (_QWEN, {}, {"max_pixels": 5}, "must be integers in order"),
        (_QWEN, {}, {"max_pixels": None}, "longest_edge is missing"),
        (_GEMMA, {"mm_tokens_per_image": 250}, {}, "must be those of a square"),
        (_GEMMA, {"mm_tokens_per_image": 900}, {}, "do not average to 30"),
        (_GEMMA, {}, {"size": {"width": 896, "height": 10}}, "of a square"),
    ],
)
def test_what_makes_no_sense_is_named(
    tmp_path: Path,
    name: str,
    config: dict[str, Any],
    preprocessor: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ModelError, match=said):
        read(tmp_path, name, config, preprocessor)


@pytest.mark.parametrize(
    ("sizing", "size", "said"),
    [
        (
            PixelBudget(14, 2, 3136, 1 << 20),
            (27, 500),
            "each side of an image needs 28",
        ),
        (PixelBudget(14, 2, 3136, 1 << 20), (28, 6000), "too long a strip"),
        (PixelBudget(14, 2, 3136, 5000), (40, 7000), "leave nothing"),
        (LongestEdge(1024, 16, 1), (20000, 10), "a side of an image may have 16384"),
        (FixedSize(896, 14, 16), (20000, 10), "a side of an image may have 16384"),
    ],
)
def test_sizes_that_no_model_takes_are_refused(
    sizing: Sizing, size: tuple[int, int], said: str
) -> None:
    with pytest.raises(ImageSizeError, match=said):
        sizing.grid(*size)


_SIDES = st.integers(28, 9000)


@pytest.mark.parametrize(
    "sizing",
    [
        FixedSize(896, 14, 16),
        LongestEdge(1024, 16, 1),
        LongestEdge(1540, 14, 2),
        PixelBudget(14, 2, 3136, 4096 * 784),
        PixelBudget(14, 2, 200704, 1003520),
    ],
)
@settings(max_examples=200, deadline=None)
@given(width=_SIDES, height=_SIDES)
def test_an_image_of_the_right_size_stays_as_it_is(
    sizing: Sizing, width: int, height: int
) -> None:
    """Pixels are resized before the engine has them, and must not be again."""
    try:
        grid = sizing.grid(width, height)
    except ImageSizeError:
        return
    assert sizing.grid(grid.width, grid.height) == grid
    assert grid.columns * grid.rows == grid.tokens
