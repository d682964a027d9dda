"""A limit on how long a model may think."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from neuron.text.detokenizer import Detokenizer
from neuron.text.thought import ThoughtTracker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuron.engines.base import TokenConstraint

_BITS: Final = 32


class ThinkingBudget:
    """Closes the thought after so many tokens; otherwise as the constraint inside.

    It has the shape of the engines' TokenConstraint.
    """

    def __init__(
        self,
        inner: "TokenConstraint | None",
        budget: int,
        *,
        vocab: int,
        end: Sequence[int],
        tracker: ThoughtTracker,
        detokenizer: Detokenizer,
    ) -> None:
        """
        Args:
            inner: what the output must be, its thought included.
            budget: tokens of the thought, those of its end not counted.
            vocab: how many tokens the model has.
            end: tokens of the marker that ends a thought.
            tracker: at the beginning of the output, and nobody else's.
            detokenizer: as the tracker; it spells the markers.
        """
        self._inner = inner
        self._left = budget
        self._vocab = vocab
        self._end = tuple(end)
        self._tracker = tracker
        self._detokenizer = detokenizer
        self._forced: list[int] = []
        self._force()

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset() if self._inner is None else self._inner.end_ids

    def mask(self) -> "NDArray[np.int32]":
        mask = (
            np.full(-(-self._vocab // _BITS), -1, np.int32)
            if self._inner is None
            else self._inner.mask()
        )
        if not self._forced:
            return mask
        word, bit = divmod(self._forced[0], _BITS)
        only = np.zeros_like(mask)
        only.view(np.uint32)[word] = 1 << bit
        only &= mask
        # Inside a code point a grammar wants its other bytes first.
        return only if only.any() else mask

    def accept(self, token_id: int) -> None:
        if self._inner is not None:
            self._inner.accept(token_id)
        self._tracker.feed(self._detokenizer.feed(token_id))
        if self._forced:
            if token_id == self._forced[0]:
                del self._forced[0]
        elif self._tracker.inside:
            self._left -= 1
            self._force()

    def _force(self) -> None:
        if self._tracker.inside and self._left <= 0:
            self._forced = [*self._end]

    def may_end(self) -> bool:
        return not self._forced and (self._inner is None or self._inner.may_end())

    def is_finished(self) -> bool:
        return self._inner is not None and self._inner.is_finished()

    def is_free(self) -> bool:
        if self._forced or not self._tracker.is_over:
            return False
        return self._inner is None or self._inner.is_free()
