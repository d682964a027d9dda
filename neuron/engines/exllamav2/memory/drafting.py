"""Whether a model may draft for another one, and how much it drafts."""

import json
from pathlib import Path
from typing import Final

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.limits import (
    DEFAULT_DRAFT_TOKENS,
    MAX_DRAFT_TOKENS,
)
from neuron.protocol.types import LoadOptions

_MOST_MISSING: Final = 256
"""Vocabularies of one family are padded to different sizes; no more than that."""


def draft_tokens(options: LoadOptions) -> int:
    """Tokens guessed per step; 0 without speculation.

    Raises:
        EngineError: the settings contradict each other; `param` names one.
    """
    speculates = options.draft is not None or bool(options.ngram)
    if options.draft is not None and options.ngram:
        raise _refused("ngram", "a draft model guesses already; leave one of them out")
    if options.draft_tokens is None:
        return DEFAULT_DRAFT_TOKENS if speculates else 0
    if not speculates:
        raise _refused("draft_tokens", "nothing guesses; give draft or ngram as well")
    if options.draft_tokens > MAX_DRAFT_TOKENS:
        raise _refused(
            "draft_tokens", f"{options.draft_tokens} is over {MAX_DRAFT_TOKENS}"
        )
    return options.draft_tokens


def check_draft(model: Description, draft: Description, max_seq_len: int) -> None:
    """Refuse a draft whose tokens or positions are not the model's.

    Raises:
        EngineError: `param` is `draft`.
    """
    name = draft.info.id
    if draft.info.context < max_seq_len:
        raise _refused(
            "draft",
            f"'{name}' was trained for {draft.info.context} tokens, the load asks for "
            f"max_seq_len {max_seq_len}",
        )
    if abs(draft.info.vocab_size - model.info.vocab_size) > _MOST_MISSING:
        raise _refused(
            "draft",
            f"'{name}' has {draft.info.vocab_size} tokens, '{model.info.id}' has "
            f"{model.info.vocab_size}",
        )
    theirs, ours = _tokens(draft.info.path), _tokens(model.info.path)
    if theirs != ours:
        every = sorted(theirs.keys() | ours.keys())
        token = next(t for t in every if theirs.get(t) != ours.get(t))
        raise _refused(
            "draft",
            f"token {token} is {theirs.get(token)!r} for '{name}' and "
            f"{ours.get(token)!r} for '{model.info.id}'; it must guess in the model's "
            "own tokens",
        )


def _tokens(folder: Path) -> dict[int, str]:
    """Which text each token id stands for."""
    file = folder / "tokenizer.json"
    try:
        vocab = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
        if isinstance(vocab, list):  # with how likely each is, in the order of ids
            return {token: text for token, (text, _) in enumerate(vocab)}
        return {token: text for text, token in vocab.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused("draft", f"{file}: no vocabulary: {error}") from None


def _refused(param: str, reason: str) -> EngineError:
    return EngineError(f"{param}: {reason}", code="unsupported", param=param)
