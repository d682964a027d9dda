"""Free text around a grammar, in Lark.

The lexer takes the longest lexeme that it can, so a text must be unable to go on where
something else has to begin: it ends before what it may never hold, and a lazy lexeme
ends with the first opening. At the beginning blanks are a lexeme of their own, or a
text that they began would hide what comes after them.
"""

import json
from collections.abc import Collection, Iterable
from typing import Final

from llguidance import LLTokenizer

from neuron.text.grammar_spec import BLANK, FreeText

FREE_TEXT: Final = "free"
"""The rule that `free_text` adds."""


def free_text(free: FreeText, inner: str, tokenizer: LLTokenizer) -> str:
    """Rules for text and, at its end, the rule body `inner`."""
    silent = _ranges(_silent_tokens(free, tokenizer))
    more = "(silent more)?" if silent else ""
    bare = "| inner" if free.bare else ""
    rules = [
        f"{FREE_TEXT}: (BLANKS{' | silent' if silent else ''})* (begun {bare})?",
        f"begun: FIRST {more} {_opened('first', free.openings, tokenizer)}",
        f"more: LATER? {more} {_opened('later', free.openings, tokenizer)}",
        f"inner: {inner}",
        f"BLANKS: /{BLANK}+/",
        f"LATER: /(?s:.+)/ {_without('/(?s:.*)/', free.never)}",
        f"FIRST: LATER & /[^{BLANK[1:]}(?s:.*)/ {_without('', free.never_first)}",
        *_lazy("first", free.openings, tokenizer),
        *_lazy("later", free.openings, tokenizer),
    ]
    if silent:
        rules.append(f"silent: <[{silent}]>")
    return "\n".join(rules) + "\n"


def special_token(marker: str, tokenizer: LLTokenizer) -> str | None:
    """A marker that no text can spell, as it is named in a rule."""
    ids = tokenizer.tokenize_str(marker, parse_special=True)
    if len(ids) == 1 and tokenizer.is_special_token(ids[0]):
        return f"<[{ids[0]}]>"
    return None


def _without(before: str, never: Collection[str]) -> str:
    return f"& ~({before} ({' | '.join(never)}) /(?s:.*)/)" if never else ""


def _opened(text: str, openings: Iterable[str], tokenizer: LLTokenizer) -> str:
    """What else a text may be: one up to an opening, and what the opening begins."""
    ways = []
    for opening in openings:
        if token := special_token(opening, tokenizer):
            ways.append(f"| {text.upper()}? {token} inner")
        elif f"| open_{text} inner" not in ways:
            ways.append(f"| open_{text} inner")
    return " ".join(ways)


def _lazy(text: str, openings: Iterable[str], tokenizer: LLTokenizer) -> list[str]:
    spelt = [
        json.dumps(opening, ensure_ascii=False)
        for opening in openings
        if special_token(opening, tokenizer) is None
    ]
    if not spelt:
        return []
    name = f"OPEN_{text.upper()}"
    return [
        f"open_{text}[lazy]: {name}",
        f"{name}: {text.upper()}? ({' | '.join(spelt)})",
    ]


def _silent_tokens(free: FreeText, tokenizer: LLTokenizer) -> list[int]:
    taken = {*free.markers, *tokenizer.eos_tokens}
    return [
        token
        for token in range(tokenizer.vocab_size)
        if token not in taken and tokenizer.is_special_token(token)
    ]


def _ranges(tokens: Iterable[int]) -> str:
    """Ascending ids as `1-3,7`."""
    runs: list[list[int]] = []
    for token in tokens:
        if runs and runs[-1][1] == token - 1:
            runs[-1][1] = token
        else:
            runs.append([token, token])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
