"""A bound that is below the truth, or not there."""

import json
import string
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
)

from neuron.text.token_bound import TokenBound
from neuron.text.tokenizer import TextTokenizer

ALPHABET = string.ascii_letters + string.digits + " \t\n-=éÅ日😀\u0301\u030a\u212b"
PIECES = st.sampled_from(
    ["<|end|>", "<s>", "▁", "Once upon a time", "happy", " " * 40, "<0x41>"]
)
TEXTS = st.lists(PIECES | st.text(ALPHABET, max_size=20), max_size=12).map("".join)


@pytest.fixture(scope="session")
def composing(byte_level: TextTokenizer) -> TextTokenizer:
    """As Qwen's: letters become one with the accents that follow them."""
    tokenizer = Tokenizer.from_str(byte_level._tokenizer.to_str())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken("<|pad|>", lstrip=True, rstrip=True)])
    return TextTokenizer(tokenizer, {})


@given(text=TEXTS)
def test_no_text_has_fewer_tokens(
    fallback: TextTokenizer,
    byte_level: TextTokenizer,
    composing: TextTokenizer,
    text: str,
) -> None:
    text += "a<|pad|>  a"
    for tokenizer in (fallback, byte_level, composing):
        assert (
            0 < tokenizer.at_least(text) <= len(tokenizer.encode(text, add_bos=False))
        )


def test_it_is_of_use(fallback: TextTokenizer, byte_level: TextTokenizer) -> None:
    text = "unfortunately " * 1000
    # 13,000 letters, and 14 are in the longest token.
    assert fallback.at_least(text) == 929
    assert byte_level.at_least(text) > 1000


def letters_alone() -> Tokenizer:
    """Every letter is a token, and two of them together are."""
    vocab = {letter: id_ for id_, letter in enumerate(ALPHABET)}
    return Tokenizer(models.BPE({**vocab, "ab": len(vocab)}, [("a", "b")]))


def test_the_token_with_the_most_letters_counts() -> None:
    assert TokenBound(letters_alone()).of("-- abab ab") == 3


def with_normalizer(normalizer: normalizers.Normalizer) -> Tokenizer:
    tokenizer = letters_alone()
    tokenizer.normalizer = normalizer
    return tokenizer


def with_split(behavior: str) -> Tokenizer:
    tokenizer = letters_alone()
    split = pre_tokenizers.Split(Regex("a+"), behavior)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split])
    return tokenizer


def with_affix(**affix: str) -> Tokenizer:
    vocab = {letter: id_ for id_, letter in enumerate(ALPHABET)}
    return Tokenizer(models.BPE(vocab, [], **affix))


def without_a_letter() -> Tokenizer:
    described = json.loads(letters_alone().to_str())
    del described["model"]["vocab"]["Q"]
    return Tokenizer.from_str(json.dumps(described))


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_normalizer(normalizers.Replace("aaa", "a")),
        lambda: with_normalizer(normalizers.Replace(Regex(".*"), "")),
        lambda: with_normalizer(
            normalizers.Sequence([normalizers.NFC(), normalizers.Replace("a", "")])
        ),
        lambda: with_normalizer(normalizers.Nmt()),
        lambda: with_split("removed"),
        lambda: with_affix(end_of_word_suffix="</w>"),
        lambda: with_affix(continuing_subword_prefix="##"),
        lambda: Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")),
        without_a_letter,
    ],
)
def test_none_where_letters_may_be_lost(make: Callable[[], Tokenizer]) -> None:
    assert TokenBound(make()).of("a" * 100) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: with_normalizer(normalizers.Replace(" ", "▁")),
        lambda: with_normalizer(normalizers.Sequence([normalizers.Prepend("▁")])),
        lambda: with_split("isolated"),
    ],
)
def test_steps_that_keep_all_letters(make: Callable[[], Tokenizer]) -> None:
    assert TokenBound(make()).of("a" * 100) == 50
