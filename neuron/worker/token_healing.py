"""Token healing: the prompt's last token is taken back, and the answer begins with it.

A prompt that ends inside what the model knows as one token (`http:`, where `://` is
one) makes it go on as no text does. Without its last token, and with an answer that has
to spell that again, the model chooses where the token ends; only what goes beyond is
told. exllamav2 and TabbyAPI call it `token_healing`; there one token must do it, here
several may.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from neuron.engines.base import TokenConstraint
from neuron.protocol.errors import ApiError
from neuron.text.detokenizer import Detokenizer
from neuron.text.grammar import GrammarError
from neuron.text.vocabulary import Vocabulary
from neuron.worker.prompts import PromptText, ServedModel
from neuron.worker.unsupported import UNSUPPORTED

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class TakenBack:
    """The end of a prompt that its answer has to begin with."""

    vocabulary: Vocabulary
    spelling: bytes
    chars: int
    """Its length in the prompt's text, which the answer does not repeat."""

    @property
    def as_text(self) -> str:
        """The spelling; nothing where it is part of a letter."""
        try:
            return self.spelling.decode()
        except UnicodeDecodeError:
            return ""


@dataclass(frozen=True, slots=True)
class TokenHealing:
    """Takes back what ends a prompt of one model."""

    model: ServedModel
    vocabulary: Vocabulary

    @classmethod
    async def of(cls, model: ServedModel) -> Self:
        """
        Raises:
            ApiError: 400, the bytes of the model's tokens cannot be told.
        """
        try:
            found = await model.grammars.vocabulary(model.tokenizer.is_silent)
        except GrammarError as error:
            raise ApiError(
                400, f"token_healing: {error}", code=UNSUPPORTED, param="token_healing"
            ) from error
        return cls(model, found)

    def take(
        self, prompt: PromptText, stop_ids: frozenset[int]
    ) -> tuple[PromptText, TakenBack | None]:
        """The prompt as the model gets it, and what is taken from it.

        Nothing is from a prompt of one token, as nothing would be left to go on from,
        nor where the last token is a special one or ends answers.
        """
        *before, last = prompt.ids
        spelling = self.vocabulary.spelling(last)
        if not before or not spelling or last in stop_ids:
            return prompt, None
        text = Detokenizer(self.model.tokenizer, before).feed(last)
        taken = TakenBack(self.vocabulary, spelling, len(text))
        return replace(prompt, ids=tuple(before)), taken


class RespellingFirst:
    """Lets only tokens through that spell what was taken back, until all of it is.

    It has the shape of the engines' TokenConstraint. Without a constraint inside, the
    last of these tokens may go on beyond. With one they end where it begins.
    """

    def __init__(
        self, taken: TakenBack, vocab: int, inner: TokenConstraint | None
    ) -> None:
        """`vocab` is how many tokens the model has."""
        self._vocabulary = taken.vocabulary
        self._left = taken.spelling
        self._words = -(-vocab // _BITS)
        self._inner = inner

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset() if self._inner is None else self._inner.end_ids

    def mask(self) -> "NDArray[np.int32]":
        if not self._left:
            if self._inner is not None:
                return self._inner.mask()
            return np.full(self._words, -1, np.int32)
        bits = np.zeros(self._words * _BITS, np.bool_)
        bits[self._vocabulary.beginnings_of(self._left)] = True
        if self._inner is None:
            bits[self._vocabulary.that_begin_with(self._left)] = True
        return np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> None:
        if self._left:
            self._left = self._left[len(self._vocabulary.spelling(token_id)) :]
        elif self._inner is not None:
            self._inner.accept(token_id)

    def may_end(self) -> bool:
        return not self._left and (self._inner is None or self._inner.may_end())

    def is_finished(self) -> bool:
        inner = self._inner
        return not self._left and inner is not None and inner.is_finished()

    def is_free(self) -> bool:
        return not self._left and (self._inner is None or self._inner.is_free())
