"""Images of a prompt as the library has them: ids beyond the vocabulary, and rows of
embeddings that are looked up for these instead of the token embedding's.

An image's ids follow from its contents, so that a conversation that comes again with
the same images is found in the prefix cache, whether or not their embeddings still are.
They are hashed with a key of this process: who chose an image's ids could be given what
is cached of another one.
Source: exllamav2 0.3.2: generator/dynamic_embeddings.py, embedding.py, mrope.py.
"""

import hashlib
import secrets
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from neuron.engines.base import EngineError, Image
from neuron.engines.exllamav2 import failures
from neuron.models.image_sizing import LONGEST_SIDE
from neuron.models.vision import VisionInfo

FIRST_ID: Final = 1_000_000_000
"""The library takes ids from here on for images (EMBEDDING_INDEX)."""
MOST_TOKENS: Final = 1 << 14
"""Ids of one image."""
_NUMBER_BYTES: Final = 6
"""Of an image's number; with an id's place in the image they make less than 63 bits."""
CACHE_BYTES: Final = 512 << 20
"""Of system memory, for embeddings of images seen last; one takes tens of megabytes."""

Look = Callable[[Image], Any]
"""An image → its embeddings: float16 [parts, hidden size], on the CPU."""


class SeenImage:
    """One image of one request, with the surface of the library's
    `ExLlamaV2MMEmbedding`.
    """

    def __init__(self, image: Image, model: Any, first_index: int) -> None:
        """
        Args:
            image: what is seen.
            model: the tower, whose `config` the library asks.
            first_index: the id of its first part; the others follow.
        """
        patch = model.config.vision_patch_size
        height, width, _ = image.pixels.shape
        self.image = image
        self.model = model
        self.first_index = first_index
        self.length = len(image.positions)
        self.thw_grid = (1, height // patch["height"], width // patch["width"])
        """Frames, rows and columns of patches."""
        self.embeddings: Any = None
        """[length, hidden size], once it was looked at."""

    def get_vision_token_range(self) -> tuple[int, int]:
        """First id of its parts, and the one after the last: the library's name."""
        return self.first_index, self.first_index + self.length


class Eyes:
    """Looks at images for one loaded model; in the engine's thread."""

    def __init__(
        self,
        vision: VisionInfo,
        tower: Any,
        look: Look,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """
        Args:
            vision: how the model takes images.
            tower: the library's `ExLlamaV2VisionTower`; its `config` is read here.
            look: computes embeddings with it.
            cache_bytes: of embeddings that are kept.
        """
        self.vision = vision
        self._tower = tower
        self._look = look
        self._key = secrets.token_bytes(16)
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._cached: OrderedDict[bytes, Any] = OrderedDict()

    def of(self, image: Image) -> SeenImage:
        """The image with its ids, not yet looked at.

        Raises:
            EngineError: it has more parts than there are ids.
        """
        if len(image.positions) > MOST_TOKENS:
            raise EngineError(
                f"images: one has {len(image.positions)} parts, over {MOST_TOKENS}",
                code="invalid_value",
                param="images",
            )
        number = hashlib.blake2b(image.digest, digest_size=_NUMBER_BYTES, key=self._key)
        first = FIRST_ID + int.from_bytes(number.digest()) * MOST_TOKENS
        return SeenImage(image, self._tower, first)

    def look(self, seen: SeenImage) -> bool:
        """Give an image its embeddings; whether they had to be computed.

        Raises:
            EngineError: they cannot be; other requests are not touched by it.
        """
        digest = seen.image.digest
        found = self._cached.get(digest)
        if found is not None:
            self._cached.move_to_end(digest)
            seen.embeddings = found
            return False
        seen.embeddings = self._compute(seen)
        self._keep(digest, seen.embeddings)
        return True

    def rehearse(self) -> None:
        """Look at an image as large as they come, which no request has sent.

        Raises:
            EngineError: it cannot be looked at.
        """
        grid = self.vision.grid(LONGEST_SIDE, LONGEST_SIDE)
        pixels = np.zeros((grid.height, grid.width, 3), np.uint8)
        self._compute(self.of(Image.of(pixels, tuple(range(grid.tokens)))))

    def close(self) -> None:
        """Forget every image, and unload the tower."""
        self._cached.clear()
        self._tower.unload()
        del self._tower, self._look

    def _compute(self, seen: SeenImage) -> Any:
        try:
            rows = self._look(seen.image)
        except Exception as error:
            if failures.is_sticky(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            raise failures.interrupted(error) from error
        if len(rows) != seen.length:
            raise EngineError(
                f"the vision tower made {len(rows)} embeddings of an image that has "
                f"{seen.length} places in its prompt",
                code="engine_error",
            )
        return rows

    def _keep(self, digest: bytes, rows: Any) -> None:
        self._cached[digest] = rows
        self._cached_bytes += rows.nbytes
        while self._cached_bytes > self._cache_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= oldest.nbytes


def with_images(prompt: Sequence[int], images: Sequence[SeenImage]) -> list[int]:
    """The prompt's ids, those of images at their places."""
    ids = list(prompt)
    for seen in images:
        for part, position in enumerate(seen.image.positions):
            ids[position] = seen.first_index + part
    return ids
