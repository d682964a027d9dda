"""Tokenizers of Hugging Face as the metadata that llama.cpp's converter makes."""

import json
from typing import Any

from tokenizers import Tokenizer


def byte_level_metadata(tokenizer: Tokenizer, pre: str) -> dict[str, Any]:
    """A GPT-2 like one with `<s>` and `</s>`; `pre` names its pre-tokenizer."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens, types = _tokens(tokenizer)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("</s>"),
    }


def sentence_piece_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    """A Llama 2 like one; a piece scores as high as the first merge that makes it."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    tokens, types = _tokens(tokenizer)
    types[0] = 2
    for id_, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x"):
            types[id_] = 6
    scores = [-float(ranks.get(token, len(merges))) for token in tokens]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _tokens(tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=lambda token: ids[token])
    assert [ids[token] for token in tokens] == list(range(len(tokens)))
    types = [1] * len(tokens)
    for id_, added in tokenizer.get_added_tokens_decoder().items():
        types[id_] = 3 if added.special else 4
    return tokens, types
