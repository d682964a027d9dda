"""A model's tokenizer, from its own `tokenizer.json`, the same for every engine."""

import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from tokenizers import Tokenizer

from neuron.exl2 import json_file
from neuron.exl2.errors import FormatError
from neuron.text.token_bound import TokenBound

log = logging.getLogger(__name__)

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenizerError(Exception):
    """The model's tokenizer files cannot be used; the message names the file."""


class TextTokenizer:
    """Encodes prompts and names tokens; safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id_ for id_, t in added.items() if t.special)
        self.added_tokens = {token.content: id_ for id_, token in added.items()}
        """Texts that are always one token, special or not, such as `<tool_call>`."""
        self._bytes = {
            id_: int(match[1], 16)
            for token, id_ in tokenizer.get_vocab(with_added_tokens=False).items()
            if (match := _BYTE_TOKEN.fullmatch(token))
        }
        self.config = config
        self.special_tokens = {
            name: token
            for name, value in config.items()
            if name.endswith("_token") and (token := _content(value)) is not None
        }
        self._bos_id = self._find_bos()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `tokenizer.json` and, where they are there, its two companions.

        `special_tokens_map.json` counts only beside a `tokenizer_config.json` of the
        old kind, which does not list the added tokens; there it comes first.

        Raises:
            TokenizerError: one of them is missing or damaged.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{path}: no such file")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The binding raises bare Exceptions.
            raise TokenizerError(f"{path}: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = read_json_object(folder / "tokenizer_config.json")
        if "added_tokens_decoder" not in config:
            config |= read_json_object(folder / "special_tokens_map.json")
        return cls(tokenizer, config)

    def _find_bos(self) -> int | None:
        """What begins every prompt: `add_bos_token`, else the file's post-processor."""
        wanted = self.config.get("add_bos_token")
        bos = self.special_tokens.get("bos_token")
        bos_id = None if bos is None else self._tokenizer.token_to_id(bos)
        if wanted is None:
            encoded = self._tokenizer.encode("x", add_special_tokens=True).ids
            return bos_id if encoded and encoded[0] == bos_id else None
        return bos_id if wanted else None

    def encode(self, text: str, *, add_bos: bool) -> list[int]:
        """Token ids; special tokens spelt out in `text` become themselves.

        That is so wherever they stand, also in what a user wrote: a prompt is one text
        by the time it is encoded, as with transformers' `apply_chat_template`. Who
        relays messages of strangers must look for special tokens in them first.

        The beginning-of-sequence token comes first where the model wants one, and not
        twice where `text` already begins with it.
        """
        # A batch of one: unlike `encode`, that lets other threads run meanwhile.
        batch = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = batch[0].ids
        if add_bos and self._bos_id is not None and ids[:1] != [self._bos_id]:
            ids.insert(0, self._bos_id)
        return ids

    def at_least(self, text: str) -> int:
        """A number of tokens that `text` has or exceeds, much faster than `encode`."""
        return self._bound.of(text)

    @functools.cached_property
    def _bound(self) -> TokenBound:
        return TokenBound(self._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens have none."""
        # A batch of one: unlike `decode`, that lets other threads run meanwhile.
        texts = self._tokenizer.decode_batch([ids], skip_special_tokens=True)
        return str(texts[0])

    def is_silent(self, token_id: int) -> bool:
        """Whether it has no text: a special token, or an id beyond the vocabulary."""
        return token_id in self.special_ids or not self.token(token_id)

    def byte_of(self, token_id: int) -> int | None:
        """The byte that a byte-fallback token such as `<0x0A>` stands for."""
        return self._bytes.get(token_id)

    def token(self, token_id: int) -> str:
        """The vocabulary's own spelling, such as `▁Once`; empty for an unknown id."""
        return self._tokenizer.id_to_token(token_id) or ""


def _content(token: object) -> str | None:
    """A special token is spelt as a string or as `{"content": …}`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from an optional file; empty where there is none.

    Raises:
        TokenizerError: it is damaged.
    """
    try:
        return json_file.read_json_object(path)
    except FileNotFoundError:
        return {}
    except (OSError, FormatError) as error:
        raise TokenizerError(str(error)) from error
