"""The bundled model's vocabulary, and what grammars over it let a model write."""

from typing import Any, Final

import numpy as np

from neuron.models.bundled import bundled_root
from neuron.text.grammar import GrammarSpec
from neuron.text.grammar_match import GrammarConstraint

FOLDER: Final = bundled_root() / "tinystories-15m"
EOS: Final = 2
PADDED: Final = 8640
"""Padded: the tokenizer has 8599."""


def allowed(constraint: GrammarConstraint) -> set[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def write(
    constraint: GrammarConstraint, text: str, spellings: dict[int, bytes]
) -> bool:
    """Whether the text can be written, in the longest tokens that are allowed."""
    rest = text.encode()
    while rest:
        fitting = [
            token
            for token in allowed(constraint)
            if token in spellings and rest.startswith(spellings[token])
        ]
        if not fitting:
            return False
        longest = max(fitting, key=lambda token: len(spellings[token]))
        constraint.accept(longest)
        rest = rest[len(spellings[longest]) :]
    return True


def takes(
    constraint: GrammarConstraint, text: str, spellings: dict[int, bytes]
) -> bool:
    """Whether this text, and then an end, is allowed."""
    return write(constraint, text, spellings) and (
        EOS in allowed(constraint) and constraint.may_end()
    )


def json_schema(schema: dict[str, Any]) -> GrammarSpec:
    return GrammarSpec("json_schema", schema)
