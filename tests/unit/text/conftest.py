"""Tokenizers of both kinds: byte fallback (Llama) and byte level (GPT-2, Qwen)."""

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

from neuron.models.bundled import bundled_root
from neuron.text.tokenizer import TextTokenizer

TEXT = [
    "Once upon a time there was a little dog.  It was happy!\n",
    "naïve café, 日本語のテキスト, emoji 😀😺, ümlaut",
    "def f(x):\n    return x  # spaces",
]

VOCAB = 320
"""Of the byte-level tokenizer, at most."""


@pytest.fixture(scope="session")
def fallback() -> TextTokenizer:
    """The bundled model's own."""
    return TextTokenizer.load(bundled_root() / "tinystories-15m")


@pytest.fixture(scope="session")
def byte_level() -> TextTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken("<|end|>", special=True)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return TextTokenizer(tokenizer, {"eos_token": {"content": "<|end|>"}})
