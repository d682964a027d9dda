"""A GGUF file's tokens: what they are spelt like, of which type, which have a role."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from neuron.exl2.errors import shown_name
from neuron.models.gguf.metadata import Metadata

TOKENS: Final = "tokenizer.ggml.tokens"
MAX_LENGTH: Final = 1024
"""Of a token in characters; real ones have up to a few hundred."""
_TYPES: Final = "tokenizer.ggml.token_type"
_ROLES: Final = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}
_ENDS: Final = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<EOT>",
    }
)
"""Tokens that end an answer whatever the file says of them: files name one end, models
have several."""


class TokenType(IntEnum):
    """Of `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All tokens by id."""

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    roles: Mapping[str, int]
    """Id by role: bos, eos, eot, eom, unk, pad; those that the file names."""

    @property
    def ids(self) -> dict[str, int]:
        """Id by spelling, of the tokens that exist: those that only fill up the
        embedding are left out."""
        return {
            token: id_
            for id_, (token, kind) in enumerate(
                zip(self.tokens, self.types, strict=True)
            )
            if kind is not TokenType.UNUSED and token
        }

    def token(self, role: str) -> str | None:
        """How the token with a role is spelt, where there is one."""
        id_ = self.roles.get(role)
        return None if id_ is None else self.tokens[id_]

    @property
    def end_ids(self) -> list[int]:
        """Ids that end an answer, the main one first."""
        named = [
            self.roles[role] for role in ("eos", "eot", "eom") if role in self.roles
        ]
        ends = [id_ for token, id_ in self.ids.items() if token in _ENDS]
        return list(dict.fromkeys(named + ends))

    def added(self) -> list[dict[str, object]]:
        """`added_tokens` of tokenizer.json: what is matched before anything else."""
        special = {*self.roles.values(), *self.end_ids}
        found: list[dict[str, object]] = []
        for token, id_ in self.ids.items():
            kind = self.types[id_]
            is_special = id_ in special or kind in (
                TokenType.CONTROL,
                TokenType.UNKNOWN,
            )
            if is_special or kind is TokenType.USER_DEFINED:
                found.append(
                    {
                        "id": id_,
                        "content": token,
                        "single_word": False,
                        "lstrip": False,
                        "rstrip": False,
                        "normalized": False,
                        "special": is_special,
                    }
                )
        return found


def read_vocabulary(metadata: Metadata, size: int) -> Vocabulary:
    """The tokens of a model with an embedding of `size` rows.

    Raises:
        ModelError: a key is missing or malformed, or a token is there twice.
    """
    tokens = metadata.strings(TOKENS)
    if len(tokens) != size:
        raise metadata.error(
            TOKENS, f"has {len(tokens)} tokens, the embedding has {size}"
        )
    longest = max(map(len, tokens))
    if longest > MAX_LENGTH:
        raise metadata.error(TOKENS, f"has a token of {longest} characters")
    if _TYPES in metadata:
        numbers = metadata.numbers(_TYPES, size).tolist()
    else:
        numbers = [TokenType.NORMAL] * size
    try:
        types = tuple(TokenType(number) for number in numbers)
    except ValueError as error:
        raise metadata.error(_TYPES, f"is malformed: {error}") from None
    roles = {
        role: id_
        for role, key in _ROLES.items()
        if (id_ := metadata.token_id(key, size)) is not None
    }
    vocabulary = Vocabulary(tuple(tokens), types, roles)
    _refuse_doubles(metadata, vocabulary)
    return vocabulary


def _refuse_doubles(metadata: Metadata, vocabulary: Vocabulary) -> None:
    spelt = Counter(
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind is not TokenType.UNUSED and token
    )
    token, count = max(spelt.items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise metadata.error(TOKENS, f"has {shown_name(token)} {count} times")
    for role, id_ in vocabulary.roles.items():
        if vocabulary.tokens[id_] not in spelt:
            raise metadata.error(_ROLES[role], f"{id_} is a token that is not used")
