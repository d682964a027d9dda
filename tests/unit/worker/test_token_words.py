"""Names and bytes of single tokens."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from neuron.text.tokenizer import TextTokenizer
from neuron.worker.token_words import TokenWords

WANTED = "é 日本 🙂 naïve\n"


@pytest.fixture(scope="module")
def byte_level() -> TextTokenizer:
    """Every byte is a token of its own, and nothing else is one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TextTokenizer(tokenizer, {})


@pytest.mark.parametrize("kind", ["tokenizer", "byte_level"])
def test_bytes_of_all_tokens_are_the_texts(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: TextTokenizer = request.getfixturevalue(kind)
    words = TokenWords(tokenizer)
    ids = tokenizer.encode(WANTED, add_bos=False)
    spelt = [byte for token in ids for byte in words.bytes(token)]
    assert bytes(spelt).decode().strip(" ") == WANTED


def test_parts_of_a_letter_have_names_of_their_own(byte_level: TextTokenizer) -> None:
    words = TokenWords(byte_level)
    ids = byte_level.encode("日x", add_bos=False)
    names = [words.name(token) for token in ids]
    assert names == [r"bytes:\xe6", r"bytes:\x97", r"bytes:\xa5", "x"]


def test_every_byte_of_a_vocabulary_of_bytes_is_told(
    byte_level: TextTokenizer,
) -> None:
    words = TokenWords(byte_level)
    told = sorted(byte for token in range(256) for byte in words.bytes(token))
    assert told == [*range(256)]


def test_what_has_no_text_goes_by_its_name(tokenizer: TextTokenizer) -> None:
    words = TokenWords(tokenizer)
    assert (words.name(2), bytes(words.bytes(2))) == ("</s>", b"</s>")
