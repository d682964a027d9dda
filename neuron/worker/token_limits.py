"""Tokens that a request allows or forbids: `allowed_token_ids` and `bad_words`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from neuron.engines.base import EngineError, TokenConstraint
from neuron.protocol.errors import ApiError
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.prompts import ServedModel
from neuron.worker.schema import GenerationBody

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """One request's demands on single tokens."""

    words: "NDArray[np.int32]"
    """Bits of the tokens that may come anywhere, as those of a constraint's mask."""
    sequences: tuple[tuple[int, ...], ...]
    """Forbidden words of several tokens: the last one may not follow the others."""
    stop_ids: frozenset[int]
    """Those of the request's that can come, if any can; else all."""
    may_stop: bool
    """Some can come."""
    param: str
    """What to blame where nothing is left."""

    @classmethod
    def of(
        cls, body: GenerationBody, model: ServedModel, stop_ids: frozenset[int]
    ) -> Self | None:
        """What `body` asks for; None where any token may come.

        Raises:
            ApiError: 400, naming what cannot be.
        """
        allowed = body.allowed_token_ids
        if allowed is None and not body.bad_words:
            return None
        model.check_ids(allowed or (), "allowed_token_ids")
        bad = _spellings(body.bad_words or (), model.tokenizer, stop_ids)
        size = model.info.vocab_size
        bits = np.zeros(-(-size // _BITS) * _BITS, np.bool_)
        bits[:size] = allowed is None
        bits[allowed or []] = True
        bits[[ids[0] for ids in bad if len(ids) == 1]] = False
        possible = frozenset(each for each in stop_ids if each < size and bits[each])
        return cls(
            _packed(bits),
            tuple(ids for ids in bad if len(ids) > 1),
            stop_ids=possible or stop_ids,
            may_stop=bool(possible),
            param="bad_words" if allowed is None else "allowed_token_ids",
        )


def _spellings(
    words: Sequence[str], tokenizer: TextTokenizer, stop_ids: frozenset[int]
) -> list[tuple[int, ...]]:
    """Tokens of every word, at the beginning of a text and after a space.

    Raises:
        ApiError: 400, a word cannot be forbidden.
    """
    found: list[tuple[int, ...]] = []
    for index, word in enumerate(words):
        where = f"bad_words[{index}]"
        bare = word.lstrip()
        first = tuple(tokenizer.encode(bare, add_bos=False))
        after = tuple(tokenizer.encode(f" {bare}", add_bos=False))
        if not bare or not first:
            raise _refused(where, "it has nothing but spaces")
        spelt = [first]
        # Elsewhere the space is a token of its own, and the word is the first one's.
        if after[0] != first[0] and len(after) == len(first):
            spelt.append(after)
        if any(len(ids) > 1 and ids[-1] in stop_ids for ids in spelt):
            raise _refused(where, "it ends in a token that ends the answer")
        found += spelt
    return found


def _refused(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param}: {why}", code="invalid_request_body", param=param)


def _packed(bits: "NDArray[np.bool_]") -> "NDArray[np.int32]":
    return np.packbits(bits, bitorder="little").view(np.int32)


class LimitedTokens:
    """Lets through what its limits leave of the constraint inside.

    It has the shape of the engines' TokenConstraint. An output that can only end may
    do so, even where the limits forbid the token for it.
    """

    def __init__(self, limits: TokenLimits, inner: TokenConstraint | None) -> None:
        self._limits = limits
        self._inner = inner
        self._exhausted = False
        """The limits leave nothing that could come next."""
        self._kept = max(map(len, limits.sequences), default=1) - 1
        self._tail: list[int] = []
        """The last tokens of the output, as many as a forbidden word can begin with."""

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset() if self._inner is None else self._inner.end_ids

    def mask(self) -> "NDArray[np.int32]":
        limits = self._limits
        inner = None if self._inner is None else self._inner.mask()[: len(limits.words)]
        mask = limits.words.copy() if inner is None else limits.words & inner
        for *beginning, last in limits.sequences:
            if self._tail[-len(beginning) :] == beginning:
                _clear(mask, last)
        self._exhausted = not mask.any()
        if not self._exhausted:
            return mask
        if inner is None or not self.may_end():
            raise EngineError(
                f"{limits.param}: leaves no token that could come next",
                code="invalid_value",
                param=limits.param,
            )
        return inner & self._ends(len(mask))

    def _ends(self, words: int) -> "NDArray[np.int32]":
        bits = np.zeros(words * _BITS, np.bool_)
        bits[[token_id for token_id in self.end_ids if token_id < len(bits)]] = True
        return _packed(bits)

    def accept(self, token_id: int) -> None:
        if self._inner is not None:
            self._inner.accept(token_id)
        if self._kept:
            self._tail = [*self._tail, token_id][-self._kept :]

    def may_end(self) -> bool:
        if not (self._limits.may_stop or self._exhausted):
            return False
        return self._inner is None or self._inner.may_end()

    def is_finished(self) -> bool:
        return self._inner is not None and self._inner.is_finished()

    def is_free(self) -> bool:
        """Never: limits hold for all of an output."""
        return False


def _clear(mask: "NDArray[np.int32]", token_id: int) -> None:
    word, bit = divmod(token_id, _BITS)
    mask.view(np.uint32)[word] &= ~np.uint32(1 << bit)
