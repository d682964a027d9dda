"""Tokenizers of both kinds: byte fallback (Llama) and byte level (GPT-2, Qwen)."""

from collections.abc import Iterator

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
from neuron.text.grammar import GrammarCompiler
from neuron.text.tokenizer import TextTokenizer
from tests.unit.text.grammars import EOS, FOLDER, PADDED

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


@pytest.fixture(scope="session")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(FOLDER, [EOS], PADDED)
    yield compiler
    compiler.close()


@pytest.fixture(scope="session")
def spellings() -> dict[int, bytes]:
    """What each token adds to a text; special ones add nothing."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    found = {}
    for token in range(3, tokenizer.get_vocab_size()):
        name = tokenizer.id_to_token(token) or ""
        byte = name.startswith("<0x") and len(name) == 6
        text = name.replace("▁", " ").encode()
        found[token] = bytes([int(name[3:5], 16)]) if byte else text
    return found
