"""How single tokens are spelt in log-probabilities."""

from dataclasses import dataclass, field
from typing import Final

from neuron.text.detokenizer import Detokenizer
from neuron.text.tokenizer import TextTokenizer

_REPLACEMENT: Final = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """The letters that vocabularies of bytes have for the bytes.

    Those that can be printed stand for themselves, the others for U+0100 and so on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted({*range(0x100)} - {*plain})
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


_BYTES: Final = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class TokenWords:
    """Spells single tokens of one model."""

    tokenizer: TextTokenizer
    as_ids: bool = False
    """Names are ids, which tell apart what is spelt alike."""
    known: dict[int, str] = field(default_factory=dict)
    """Texts found before; at most those of the vocabulary."""

    def name(self, token_id: int) -> str:
        """What stands for the token in an answer; no text if it is part of a letter."""
        if self.as_ids:
            return f"token_id:{token_id}"
        text = self.text(token_id)
        if _REPLACEMENT not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes(token_id))

    def text(self, token_id: int) -> str:
        """The token's own text, a leading space included; its name if it has none."""
        text = self.known.get(token_id)
        if text is None:
            text = self.known[token_id] = self._decoded(token_id)
        return text

    def _decoded(self, token_id: int) -> str:
        if self.tokenizer.is_silent(token_id):
            return self.tokenizer.token(token_id)
        detokenizer = Detokenizer(self.tokenizer, self._anchor())
        return detokenizer.feed(token_id) + detokenizer.flush()

    def _anchor(self) -> list[int]:
        """Any text in front, so that the token is not at the very beginning."""
        return self.tokenizer.encode("a", add_bos=False)

    def bytes(self, token_id: int) -> list[int]:
        """Those of its text, or those that it adds to a letter of several tokens."""
        byte = self.tokenizer.byte_of(token_id)
        if byte is not None:
            return [byte]
        text = self.text(token_id)
        if _REPLACEMENT in text:
            letters = self.tokenizer.token(token_id)
            if all(letter in _BYTES for letter in letters):
                return [_BYTES[letter] for letter in letters]
        return list(text.encode())
