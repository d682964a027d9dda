"""One request's constraint, as an engine drives it: for every engine the same.

The mask of a token is computed in another thread while the forward pass that leads to
it runs, and waited for when both are needed.
"""

from collections.abc import Collection
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

import numpy as np

from neuron.engines.base import EngineError, GenerationRequest, TokenConstraint

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Constrained:
    """The tokens that a request may choose from, one choice after the other.

    `prepare` before a forward pass, `allowed` after it, then `accept` what was chosen.
    Once `is_free`, the request is like one without a constraint, and this can be let go
    of. Whatever goes wrong is an EngineError, and the request's alone.
    """

    def __init__(
        self,
        constraint: TokenConstraint,
        request: GenerationRequest,
        vocab: int,
        threads: Executor,
    ) -> None:
        """
        Raises:
            EngineError: the constraint failed.
        """
        self.is_free = False
        """What was accepted has left nothing to constrain."""
        self._constraint = constraint
        self._vocab = vocab
        self._threads = threads
        try:
            ends = constraint.end_ids
        except Exception as error:
            raise _failed(error) from error
        self._ends = _ids(ends | request.stop_ids, vocab)
        self._ignored = _ids(ends - request.stop_ids, vocab)
        self._stops = np.array([*request.stop_ids], np.intp)
        self._mask: Future[NDArray[np.int32]] | None = None

    def prepare(self) -> None:
        """Begin to compute the next mask, unless that has been done."""
        if self._mask is None:
            self._mask = self._threads.submit(self._constraint.mask)

    def allowed(self, *, may_stop: bool) -> "NDArray[np.bool_]":
        """Which tokens may come next, [vocab], at least one; waits for the mask.

        Stop ids are among them where the output may end. Where it may not, or
        `may_stop` is false, ends are there only if there is nothing else; so are, at
        any time, ends of the grammar that are no stop ids.

        Raises:
            EngineError: the constraint failed, or leaves nothing.
        """
        allowed = self._unpacked()
        ending = self._may_end()
        if ending:
            allowed[self._stops] = True
        others = allowed.copy()
        others[self._ignored if ending and may_stop else self._ends] = False
        if others.any():
            return others
        if not allowed.any():
            raise EngineError(
                "the output's grammar allows for no token", code="constraint_failed"
            )
        return allowed

    def accept(self, token_id: int) -> bool:
        """That token was chosen; whether the output is complete and must end.

        Raises:
            EngineError: the constraint failed.
        """
        try:
            self._constraint.accept(token_id)
            self.is_free = self._constraint.is_free()
            return self._constraint.is_finished()
        except Exception as error:
            raise _failed(error) from error

    def close(self) -> None:
        """The request is over."""
        if self._mask is not None:
            self._mask.cancel()

    def _unpacked(self) -> "NDArray[np.bool_]":
        pending, self._mask = self._mask, None
        try:
            # On a busy host no thread may have begun yet; then this one is quicker.
            if pending is None or pending.cancel():
                words = self._constraint.mask()
            else:
                words = pending.result()
        except Exception as error:
            raise _failed(error) from error
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        if len(bits) < self._vocab:
            raise EngineError(
                f"a mask has {len(bits)} bits, the model {self._vocab} tokens",
                code="constraint_failed",
            )
        return bits[: self._vocab].view(np.bool_)

    def _may_end(self) -> bool:
        try:
            return self._constraint.may_end()
        except Exception as error:
            raise _failed(error) from error


def _ids(tokens: Collection[int], vocab: int) -> "NDArray[np.intp]":
    return np.array([token for token in tokens if token < vocab], np.intp)


def _failed(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error  # The constraint itself can name what is wrong.
    return EngineError(
        f"the output's grammar failed: {error}", code="constraint_failed"
    )
