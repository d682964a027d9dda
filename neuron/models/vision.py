"""What a model that sees expects of images, from its JSON files alone.

How an image stands in a prompt is each family's own: what its chat template writes for
one, how that is spelt out before it is tokenized, and which tokens the parts of the
image and the ends of its rows are. Here it is as the models were trained, which
transformers' processors show (processing_pixtral.py, processing_qwen2_vl.py,
processing_gemma3.py).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuron.models.errors import ModelError
from neuron.models.image_sizing import (
    FixedSize,
    ImageGrid,
    LongestEdge,
    PixelBudget,
    Sizing,
)
from neuron.models.settings import Settings

PREPROCESSOR: Final = "preprocessor_config.json"
_MOST_TOKENS: Final = 4096
"""Of one image; Qwen's own limit is four times that, and gigabytes of activations."""
_BICUBIC: Final = 3
_RESAMPLINGS: Final = range(6)
"""Pillow's, by number."""


@dataclass(frozen=True, slots=True)
class ImageSyntax:
    """How images stand in the prompts of one family."""

    written: str
    """What a chat template writes for an image."""
    spelt: str
    """What stands for it in the text that is tokenized; `token` is in it, once."""
    token: str
    """The token that stands for one part of an image."""
    row_end: str | None = None
    """The token after each row of parts but the last."""
    end: str | None = None
    """The token after the last row."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Those that the tokenizer has to know."""
        return tuple(filter(None, (self.token, self.row_end, self.end)))


@dataclass(frozen=True, slots=True)
class VisionInfo:
    """How a model takes images."""

    syntax: ImageSyntax
    sizing: Sizing
    resample: int
    """Pillow's number of the filter that images are resized with."""

    def grid(self, width: int, height: int) -> ImageGrid:
        """What becomes of an image of that size in pixels.

        Raises:
            ImageSizeError: the model takes none such.
        """
        return self.sizing.grid(width, height)

    def tokens(self, width: int, height: int) -> int:
        """Prompt tokens that an image of that size in pixels takes, row ends included;
        what else the template writes around it is text.

        Raises:
            ImageSizeError: the model takes none such.
        """
        return len(self.layout(self.grid(width, height)))

    def layout(self, grid: ImageGrid) -> list[str]:
        """The tokens of an image, row after row."""
        syntax = self.syntax
        tokens: list[str] = []
        for row in range(grid.rows):
            tokens += [syntax.token] * grid.columns
            end = syntax.row_end if row < grid.rows - 1 else syntax.end
            if end is not None:
                tokens.append(end)
        return tokens


_PIXTRAL: Final = ImageSyntax(
    written="[IMG]", spelt="[IMG]", token="[IMG]", row_end="[IMG_BREAK]",
    end="[IMG_END]",
)  # fmt: skip
_QWEN: Final = ImageSyntax(
    written="<|image_pad|>", spelt="<|image_pad|>", token="<|image_pad|>"
)
_GEMMA: Final = ImageSyntax(
    written="<start_of_image>",
    spelt="\n\n<start_of_image><image_soft_token><end_of_image>\n\n",
    token="<image_soft_token>",
)


def read_vision(
    folder: Path, architecture: str, config: Settings, template: str
) -> VisionInfo | None:
    """How a model takes images; None where it has no eyes, or no way to show it one.

    Args:
        folder: the model's.
        architecture: config.json's.
        config: config.json.
        template: all chat templates together.

    Raises:
        ModelError: a file is missing or malformed; it is named, with the key at fault.
    """
    family = FAMILIES.get(architecture)
    if family is None or family.syntax.written not in template:
        return None
    preprocessor = Settings.read(folder / PREPROCESSOR)
    sizing = family.sizing(config, preprocessor)
    return VisionInfo(family.syntax, sizing, _resample(family, preprocessor))


@dataclass(frozen=True, slots=True)
class Family:
    syntax: ImageSyntax
    sizing: Callable[[Settings, Settings], Sizing]
    resample: int | None = None
    """The one that the family always uses."""


def _resample(family: Family, preprocessor: Settings) -> int:
    if family.resample is not None:
        return family.resample
    found = preprocessor.get("resample")
    if type(found) is not int or found not in _RESAMPLINGS:
        raise ModelError(
            preprocessor.file, f"resample must be a number below {len(_RESAMPLINGS)}"
        )
    return found


def _siglip(config: Settings, preprocessor: Settings) -> Sizing:
    size = preprocessor.section("size")
    side, patch = (
        size.integer("width"),
        config.section("vision_config").integer("patch_size"),
    )
    tokens = config.integer("mm_tokens_per_image")
    row = math.isqrt(tokens)
    if size.integer("height") != side or row**2 != tokens:
        raise ModelError(
            preprocessor.file, "size and mm_tokens_per_image must be those of a square"
        )
    patches = side // patch
    if row > patches or patches // (patches // row) != row:
        raise ModelError(
            preprocessor.file,
            f"{patches} patches in a row do not average to {row}, as "
            "mm_tokens_per_image has it",
        )
    return FixedSize(side, patch, row)


def _pixtral(config: Settings, preprocessor: Settings) -> Sizing:
    patch = config.section("vision_config").integer("patch_size")
    edge = preprocessor.section("size").integer("longest_edge")
    merge = config.integer("spatial_merge_size", 1)
    if merge not in (1, 2):
        raise ModelError(config.file, f"spatial_merge_size {merge} is neither 1 nor 2")
    sizing = LongestEdge(edge, patch, merge)
    if edge % sizing.step:
        raise ModelError(
            preprocessor.file,
            f"size.longest_edge {edge} is no multiple of two patches of {patch}",
        )
    return sizing


def _qwen(config: Settings, preprocessor: Settings) -> Sizing:
    vision = config.section("vision_config")
    patch, merge = vision.integer("patch_size"), vision.integer("spatial_merge_size")
    # Later releases name the same limits so.
    size = preprocessor.section("size")
    least = preprocessor.get("min_pixels") or size.integer("shortest_edge")
    most = preprocessor.get("max_pixels") or size.integer("longest_edge")
    if type(least) is not int or type(most) is not int or not 0 < least <= most:
        raise ModelError(
            preprocessor.file, "min_pixels and max_pixels must be integers in order"
        )
    return PixelBudget(
        patch, merge, least, min(most, _MOST_TOKENS * (patch * merge) ** 2)
    )


FAMILIES: Final[Mapping[str, Family]] = {
    "LlavaForConditionalGeneration": Family(_PIXTRAL, _pixtral),
    "Mistral3ForConditionalGeneration": Family(_PIXTRAL, _pixtral),
    "Qwen2VLForConditionalGeneration": Family(_QWEN, _qwen, _BICUBIC),
    "Qwen2_5_VLForConditionalGeneration": Family(_QWEN, _qwen, _BICUBIC),
    "Gemma3ForConditionalGeneration": Family(_GEMMA, _siglip),
}
"""config.json's architecture → family."""
