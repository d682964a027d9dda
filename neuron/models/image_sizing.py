"""How large an image is for a vision model, and into how many tokens it is cut.

Each class is one way in which processors size images, to the pixel and token as
exllamav2 0.3.2 does it (vlm/util.py, vlm/processor/); nothing here touches pixels.
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol

LONGEST_SIDE: Final = 16384
"""Of an image as it is sent, in pixels; the library takes none larger."""
_LONGEST_TO_SHORTEST: Final = 200


class ImageSizeError(ValueError):
    """The model takes no image of that size; the text says what would be right."""


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """An image as the model sees it."""

    width: int
    height: int
    """In pixels, after it was resized."""
    columns: int
    rows: int
    """In tokens."""

    @property
    def tokens(self) -> int:
        """Tokens that stand for parts of the image; what is put between not counted."""
        return self.columns * self.rows


class Sizing(Protocol):
    """One processor's way to size images."""

    @property
    def most_patches(self) -> int:
        """Patches of the largest image."""

    def grid(self, width: int, height: int) -> ImageGrid:
        """What becomes of an image of that size in pixels.

        Raises:
            ImageSizeError: the model takes none such.
        """


@dataclass(frozen=True, slots=True)
class FixedSize:
    """Every image has the same size (SigLIP, as Gemma 3 uses it)."""

    side: int
    patch: int
    side_tokens: int
    """Patches are averaged to so many in a row."""

    @property
    def most_patches(self) -> int:
        return (self.side // self.patch) ** 2

    def grid(self, width: int, height: int) -> ImageGrid:
        _check_sides(width, height)
        return ImageGrid(self.side, self.side, self.side_tokens, self.side_tokens)


@dataclass(frozen=True, slots=True)
class LongestEdge:
    """Large images are made smaller, sides go up to a multiple (Pixtral)."""

    edge: int
    patch: int
    merge: int
    """Patches on a side of what one token stands for."""

    @property
    def step(self) -> int:
        """Sides are multiples of it, whatever `merge` is."""
        return 2 * self.patch

    @property
    def most_patches(self) -> int:
        return (self.edge // self.patch) ** 2

    def grid(self, width: int, height: int) -> ImageGrid:
        _check_sides(width, height)
        ratio = max(width / self.edge, height / self.edge)
        if ratio > 1:
            width = max(1, math.floor(width / ratio))
            height = max(1, math.floor(height / ratio))
        width, height = (-(-side // self.step) * self.step for side in (width, height))
        token = self.patch * self.merge
        return ImageGrid(width, height, width // token, height // token)


@dataclass(frozen=True, slots=True)
class PixelBudget:
    """Images keep their shape, and have so many pixels at least and at most (Qwen)."""

    patch: int
    merge: int
    """Patches on a side of what one token stands for."""
    least: int
    most: int

    @property
    def step(self) -> int:
        return self.patch * self.merge

    @property
    def most_patches(self) -> int:
        return self.most // self.patch**2

    def grid(self, width: int, height: int) -> ImageGrid:
        _check_sides(width, height)
        if min(width, height) < self.step:
            raise ImageSizeError(
                f"{width} by {height} pixels are too few; each side of an image needs "
                f"{self.step} for this model"
            )
        if max(width, height) > _LONGEST_TO_SHORTEST * min(width, height):
            raise ImageSizeError(
                f"{width} by {height} pixels are too long a strip; the longer side may "
                f"be {_LONGEST_TO_SHORTEST} times the shorter"
            )
        columns, rows = self._tokens(width, height)
        if not columns or not rows:
            raise ImageSizeError(
                f"{width} by {height} pixels leave nothing of the shorter side within "
                f"the {self.most} pixels that this model takes"
            )
        return ImageGrid(columns * self.step, rows * self.step, columns, rows)

    def _tokens(self, width: int, height: int) -> tuple[int, int]:
        columns, rows = round(width / self.step), round(height / self.step)
        pixels = columns * rows * self.step**2
        if pixels > self.most:
            over = math.sqrt(width * height / self.most)
            return (
                math.floor(width / over / self.step),
                math.floor(height / over / self.step),
            )
        if pixels < self.least:
            under = math.sqrt(self.least / (width * height))
            return (
                math.ceil(width * under / self.step),
                math.ceil(height * under / self.step),
            )
        return columns, rows


def _check_sides(width: int, height: int) -> None:
    if max(width, height) > LONGEST_SIDE:
        raise ImageSizeError(
            f"{width} by {height} pixels are too many; a side of an image may have "
            f"{LONGEST_SIDE}"
        )
