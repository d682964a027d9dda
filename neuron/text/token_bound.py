"""How many tokens a text has at the very least, long before it is tokenized.

Letters and digits of ASCII are what can be counted on: no known step from text to
tokens drops one, each is spelt by one token, and a token spells only so many. Spaces
and lines of dashes, of which single tokens may spell a hundred, do not count.
"""

import json
from typing import Any, Final

from tokenizers import Tokenizer, models

_LETTERS: Final = "".join(chr(c) for c in range(128) if chr(c).isalnum())
_OTHERS: Final = bytes(c for c in range(128) if not chr(c).isalnum())
_SPACE: Final = "▁"
_BYTES_NO_LETTERS: Final = frozenset(map(chr, range(0x100, 0x144)))
"""How the byte-level alphabet spells spaces, controls and no beginning of a letter."""
_NORMALIZERS: Final = frozenset(
    (
        "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Strip",
        "StripAccents",
    )
)  # fmt: skip
_PRE_TOKENIZERS: Final = frozenset(
    (
        "BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation",
        "UnicodeScripts", "Whitespace", "WhitespaceSplit",
    )
)  # fmt: skip


class TokenBound:
    """A lower bound of one tokenizer; 0 where none is certain."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look at the whole vocabulary: takes a moment."""
        self._most = _most_letters(tokenizer) if _keeps_letters(tokenizer) else None

    def of(self, text: str) -> int:
        """So many tokens `text` has, or more."""
        if not self._most:
            return 0
        letters = len(text.encode("ascii", "ignore").translate(None, _OTHERS))
        return -(-letters // self._most)


def _keeps_letters(tokenizer: Tokenizer) -> bool:
    """Whether every letter of a text is known to be in one of its tokens."""
    model = tokenizer.model
    if not isinstance(model, models.BPE):
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if any(tokenizer.token_to_id(letter) is None for letter in _LETTERS):
        return False
    steps = [*_steps(tokenizer.normalizer), *_steps(tokenizer.pre_tokenizer)]
    return all(_step_keeps_letters(step) for step in steps)


def _steps(component: Any) -> list[dict[str, Any]]:
    if component is None:
        return []
    return _flat(json.loads(component.__getstate__()))


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] != "Sequence":
        return [step]
    inner = step.get("normalizers") or step.get("pretokenizers") or []
    return [each for part in inner for each in _flat(part)]


def _step_keeps_letters(step: dict[str, Any]) -> bool:
    match step["type"]:
        case "Replace":
            pattern = step["pattern"].get("String")
            return pattern is not None and not set(pattern) & set(_LETTERS)
        case "Split":
            return bool(step["behavior"] != "Removed")
        case kind:
            return kind in _NORMALIZERS or kind in _PRE_TOKENIZERS


def _most_letters(tokenizer: Tokenizer) -> int:
    """Letters that one token can spell, counting whatever may be one."""
    steps = [*_steps(tokenizer.normalizer), *_steps(tokenizer.pre_tokenizer)]
    by_bytes = any(step["type"] == "ByteLevel" for step in steps)
    none = _BYTES_NO_LETTERS if by_bytes else frozenset()
    none |= {_SPACE}

    def letters(token: str) -> int:
        return sum(c.isalnum() if c.isascii() else c not in none for c in token)

    return max(letters(token) for token in tokenizer.get_vocab())
