"""Token ids to text, one at a time, losing nothing and never half a code point."""

import codecs
from collections.abc import Collection, Sequence
from typing import Final

from neuron.text.tokenizer import TextTokenizer

_REPLACEMENT: Final = "\ufffd"
_SEED_TOKENS: Final = 6
_MAX_WINDOW: Final = 8
_INCOMPLETE: Final = 4
"""Tokens that can hold an unfinished code point: it has at most three bytes."""


class Detokenizer:
    """Decodes the continuation of a prompt.

    What a token spells depends on its neighbours (a leading space is dropped at the
    very beginning only; a code point may be spread over tokens), so each one is
    decoded together with the few before it, and the difference is its text. Bytes
    that cannot become a code point any more appear as U+FFFD. Special tokens have no
    text, but for the `visible` ones: those appear as they are spelt.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        prompt: Sequence[int] = (),
        *,
        visible: Collection[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._visible = visible
        self._window: list[int] = []
        self._emitted = 0
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in _tail(tokenizer, prompt):
            self.feed(token_id)

    def feed(self, token_id: int) -> str:
        """The text that is certain now, which may be none or finish an earlier one."""
        if self._tokenizer.is_silent(token_id):
            return self._spell(token_id) if token_id in self._visible else ""
        byte = self._tokenizer.byte_of(token_id)
        if byte is not None:
            held = self._flush_window()
            self._restart([token_id])
            return held + self._bytes.decode(bytes([byte]))
        return self._bytes.decode(b"", final=True) + self._feed_token(token_id)

    def _spell(self, token_id: int) -> str:
        """What was held back can get no better; what comes next keeps its space."""
        held = self.flush()
        whole = self._tokenizer.decode(self._window[-1:])
        self._restart([] if _REPLACEMENT in whole else self._window[-1:])
        return held + self._tokenizer.token(token_id)

    def _feed_token(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        certain = text.removesuffix(_REPLACEMENT)
        new = certain[self._emitted :]
        if len(certain) == len(text):
            self._restart([token_id])
        elif len(self._window) > _MAX_WINDOW:
            self._restart(self._window[-_INCOMPLETE:])
        else:
            self._emitted = len(certain)
        return new

    def _restart(self, window: list[int]) -> None:
        self._window = window
        text = self._tokenizer.decode(window)
        # A byte token's own text counts as emitted: the byte decoder answers for it.
        whole = len(window) == 1
        self._emitted = len(text if whole else text.removesuffix(_REPLACEMENT))

    def flush(self) -> str:
        """What was held back, at the end."""
        return self._bytes.decode(b"", final=True) + self._flush_window()

    def _flush_window(self) -> str:
        text = self._tokenizer.decode(self._window)[self._emitted :]
        self._emitted += len(text)
        return text


def _tail(tokenizer: TextTokenizer, prompt: Sequence[int]) -> Sequence[int]:
    """The prompt's last tokens; none of those before a special one, such as a turn's
    end, after which text begins anew."""
    tail = list(prompt[-_SEED_TOKENS:])
    for index in range(len(tail) - 1, -1, -1):
        if tokenizer.is_silent(tail[index]):
            return tail[index + 1 :]
    return tail
