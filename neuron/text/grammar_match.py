"""A compiled grammar at one point of one output."""

from typing import Final, Self

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

_BITS: Final = 32


class ConstraintError(Exception):
    """The grammar cannot go on: a limit was hit, or a token does not fit."""


class GrammarConstraint:
    """Which tokens may come next; one output's own, and never in two threads at once.

    It has the shape of the engines' TokenConstraint.
    """

    def __init__(self, matcher: LLMatcher, vocab: int, ends: frozenset[int]) -> None:
        """`vocab` is the number of tokens that a mask has bits for."""
        self._matcher = matcher
        self._words = -(-vocab // _BITS)
        self._ends = ends

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an output; allowed where one may be."""
        return self._ends

    def mask(self) -> NDArray[np.int32]:
        """Bits of the tokens that may come next, ends included where one may be.

        Releases the interpreter lock while it works.

        Raises:
            ConstraintError: a limit on the grammar's complexity was hit.
        """
        bits = np.zeros(self._words, np.int32)
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._check()
        return bits

    def accept(self, token_id: int) -> None:
        """That token comes next.

        Raises:
            ConstraintError: it may not.
        """
        self._matcher.consume_token(token_id)
        self._check()

    def may_end(self) -> bool:
        """Whether what there is satisfies the grammar."""
        return bool(self._matcher.is_accepting())

    def is_finished(self) -> bool:
        """Whether nothing but an end may follow."""
        return bool(self._matcher.is_stopped())

    def fork(self) -> Self:
        """Another one, at the same point, that goes its own way."""
        matcher = self._matcher.deep_copy()
        return type(self)(matcher, self._words * _BITS, self._ends)

    def _check(self) -> None:
        if self._matcher.is_error():
            # The first line says what; the rest is the parser's whole state.
            reason = self._matcher.get_error().partition("\n")[0]
            raise ConstraintError(f"the grammar cannot go on: {reason}")
