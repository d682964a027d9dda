"""A compiled grammar at one point of one output."""

from collections.abc import Callable, Iterable
from typing import Final, Self

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

_BITS: Final = 32

Compile = Callable[[], LLMatcher]


class ConstraintError(Exception):
    """The grammar cannot go on: a limit was hit, or a token does not fit."""


class GrammarConstraint:
    """Which tokens may come next; one output's own, and never in two threads at once.

    It has the shape of the engines' TokenConstraint.

    Copies of a matcher share the states that their lexer has come across, and a limit
    on them. What others have added must not fail an output, so where one fails it is
    tried once more on a matcher of its own.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        compile_anew: Compile,
        vocab: int,
        end_ids: frozenset[int],
        accepted: Iterable[int] = (),
    ) -> None:
        """
        Args:
            matcher: after the tokens `accepted`.
            compile_anew: makes another one, at its beginning.
            vocab: number of tokens that a mask has bits for.
            end_ids: tokens that end an output.
        """
        self._matcher = matcher
        self._compile_anew = compile_anew
        self._vocab = vocab
        self._end_ids = end_ids
        self._accepted = list(accepted)
        self._is_own = False

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an output; allowed where one may be."""
        return self._end_ids

    def mask(self) -> NDArray[np.int32]:
        """Bits of the tokens that may come next, ends included where one may be.

        Releases the interpreter lock while it works.

        Raises:
            ConstraintError: a limit on the grammar's complexity was hit.
        """
        bits = np.zeros(-(-self._vocab // _BITS), np.int32)
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if self._matcher.is_error():
            self._renew()
            self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            self._check()
        return bits

    def accept(self, token_id: int) -> None:
        """That token comes next.

        Raises:
            ConstraintError: it may not.
        """
        self._accepted.append(token_id)
        if not self._matcher.consume_token(token_id):
            self._renew()

    def may_end(self) -> bool:
        """Whether what there is satisfies the grammar."""
        return bool(self._matcher.is_accepting())

    def is_finished(self) -> bool:
        """Whether nothing but an end may follow."""
        return bool(self._matcher.is_stopped())

    def is_free(self) -> bool:
        """Never: a grammar describes all of an output."""
        return False

    def fork(self) -> Self:
        """Another one, at the same point, that goes its own way."""
        return type(self)(
            self._matcher.deep_copy(),
            self._compile_anew,
            self._vocab,
            self._end_ids,
            self._accepted,
        )

    def _renew(self) -> None:
        """The same point again, on a matcher that shares nothing."""
        if self._is_own:
            self._check()
        self._is_own = True
        self._matcher = self._compile_anew()
        self._matcher.consume_tokens(self._accepted)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            # The first line says what; the rest is the parser's whole state.
            reason = self._matcher.get_error().partition("\n")[0]
            raise ConstraintError(f"the grammar cannot go on: {reason}")
