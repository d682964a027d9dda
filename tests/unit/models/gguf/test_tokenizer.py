"""Tokenizers written as GGUF metadata and rebuilt, against the ones they came from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.pre_tokenizers import PreTokenizer

from neuron.models.bundled import bundled_root
from neuron.models.gguf.metadata import Metadata
from neuron.models.gguf.pre_tokenizers import PRE_TOKENIZERS
from neuron.models.gguf.tokenizer import read_tokenizer, tokenizer_config
from neuron.models.gguf.vocabulary import Vocabulary, read_vocabulary
from neuron.text.tokenizer import TextTokenizer
from tests.support.gguf_vocabularies import byte_level_metadata, sentence_piece_metadata

TEXTS = (
    "Once upon a time, there was a little girl named Lily.",
    "  two spaces,\ttab\n\n\n   and  newlines \r\n end  ",
    "It's 1234567 o'clock; WE'LL see I'M café naïve Ünïcode",
    "def f(x):\n    return {'a': x**2}  # ok\n",
    "日本語のテキスト 한국어 العربية עברית 🙂👩‍👩‍👧 e\u0301",
    "<s>[tool]</s> <s> a[tool] b",
    "",
    " ",
    "\n",
)


def rebuilt(values: dict[str, Any]) -> tuple[Tokenizer, dict[str, Any], Vocabulary]:
    read = {
        key: np.array(value)
        if type(value) is list and type(value[0]) is not str
        else value
        for key, value in values.items()
    }
    metadata = Metadata(Path("m.gguf"), read)
    vocabulary = read_vocabulary(metadata, len(values["tokenizer.ggml.tokens"]))
    files = read_tokenizer(metadata, vocabulary)
    config = tokenizer_config(metadata, vocabulary, files, context=512)
    return Tokenizer.from_str(json.dumps(files.tokenizer)), config, vocabulary


def byte_level(pre: PreTokenizer, *, composed: bool = False) -> Tokenizer:
    """Trained on the texts, with a special and a plain added token in the middle."""
    tokenizer = Tokenizer(models.BPE())
    if composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in TEXTS for _ in range(3)], trainer)
    tokenizer.add_tokens([AddedToken("[tool]", normalized=False)])
    return tokenizer


def sequence(*patterns: str) -> PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(each), "isolated") for each in patterns]
    return pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("name", "pre"),
    [
        ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        (
            "smollm",
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            ),
        ),
        ("qwen2", sequence(QWEN)),
        ("smaug-bpe", sequence(QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|"))),
    ],
)
def test_byte_level(name: str, pre: PreTokenizer) -> None:
    original = byte_level(pre, composed=name == "qwen2")
    found, _, _ = rebuilt(byte_level_metadata(original, name))
    for text in TEXTS:
        encoded = original.encode(text, add_special_tokens=False).ids
        assert found.encode(text, add_special_tokens=False).ids == encoded, text
        for skip in (False, True):
            decoded = original.decode(encoded, skip_special_tokens=skip)
            assert found.decode(encoded, skip_special_tokens=skip) == decoded


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_text_comes_back_through_every_pre_tokenizer(name: str) -> None:
    original = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    found, _, _ = rebuilt(byte_level_metadata(original, name))
    composed = normalizers.NFC() if PRE_TOKENIZERS[name].composed else None
    for text in TEXTS:
        ids = found.encode(text, add_special_tokens=False).ids
        wanted = composed.normalize_str(text) if composed else text
        assert found.decode(ids, skip_special_tokens=False) == wanted


def test_pieces_in_the_vocabulary_are_taken_whole_where_merges_are_ignored() -> None:
    values = byte_level_metadata(
        byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), "llama-bpe"
    )
    values["tokenizer.ggml.tokens"][-1] = "xyzzy"
    values["tokenizer.ggml.token_type"][-1] = 1
    last = len(values["tokenizer.ggml.tokens"]) - 1
    found, _, _ = rebuilt(values)
    assert found.encode("xyzzy", add_special_tokens=False).ids == [last]
    found, _, _ = rebuilt(values | {"tokenizer.ggml.pre": "smaug-bpe"})
    assert last not in found.encode("xyzzy", add_special_tokens=False).ids


def bundled() -> Tokenizer:
    return Tokenizer.from_file(str(bundled_root() / "tinystories-15m/tokenizer.json"))


def test_sentence_piece() -> None:
    original = bundled()
    found, config, _ = rebuilt(sentence_piece_metadata(original))
    for text in TEXTS:
        for special in (False, True):
            wanted = original.encode(text, add_special_tokens=special)
            encoded = found.encode(text, add_special_tokens=special)
            assert encoded.tokens == wanted.tokens, text
            assert encoded.ids == wanted.ids
            assert found.decode(wanted.ids) == original.decode(wanted.ids)
    assert config["add_bos_token"] is True
    assert config["bos_token"] == "<s>"


def test_sentence_piece_without_a_space_in_front() -> None:
    values = sentence_piece_metadata(bundled())
    found, _, _ = rebuilt(values | {"tokenizer.ggml.add_space_prefix": False})
    encoded = found.encode("a little girl", add_special_tokens=False)
    assert encoded.tokens == ["a", "▁little", "▁girl"]
    assert found.decode(encoded.ids) == "a little girl"
    encoded = found.encode(" little", add_special_tokens=False)
    assert found.decode(encoded.ids) == " little"


def test_tokens_that_only_fill_up_the_embedding_do_not_exist() -> None:
    values = byte_level_metadata(
        byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), "gpt-2"
    )
    before = len(values["tokenizer.ggml.tokens"])
    values["tokenizer.ggml.tokens"] += ["[PAD1]", "[PAD2]"]
    values["tokenizer.ggml.token_type"] += [5, 5]
    found, _, vocabulary = rebuilt(values)
    assert found.get_vocab_size() == before
    assert found.id_to_token(before) is None
    assert len(vocabulary.tokens) == before + 2
    assert found.token_to_id("[PAD1]") is None


def ids_around(text: str, values: dict[str, Any]) -> Sequence[int]:
    found, _, _ = rebuilt(values)
    inner = found.encode(text, add_special_tokens=False).ids
    ids = found.encode(text).ids
    assert inner in ([*ids], ids[1:], ids[:-1], ids[1:-1])
    return [id_ for id_ in ids if id_ not in inner]


def test_special_tokens_are_put_around_as_the_file_says() -> None:
    values = byte_level_metadata(
        byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), "gpt-2"
    )
    add_bos, add_eos = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"
    assert ids_around("time", values) == []
    assert ids_around("time", values | {add_bos: True}) == [0]
    assert ids_around("time", values | {add_bos: True, add_eos: True}) == [0, 1]
    assert ids_around("time", values | {"tokenizer.ggml.pre": "llama-bpe"}) == [0]
    llama = values | {"tokenizer.ggml.pre": "llama-bpe", add_bos: False}
    assert ids_around("time", llama) == []


def test_ends_of_an_answer() -> None:
    values = byte_level_metadata(
        byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), "gpt-2"
    )
    tokens, types = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
    size = len(values[tokens])
    values[tokens] += ["<|im_end|>", "<|eot|>", "<think>"]
    values[types] += [1, 3, 4]
    values |= {
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": size + 1,
    }
    found, _, vocabulary = rebuilt(values)
    assert vocabulary.end_ids == [1, size + 1, size]
    special = {
        token.content: token.special
        for token in found.get_added_tokens_decoder().values()
    }
    assert special == {
        "<s>": True,
        "</s>": True,
        "[tool]": False,
        "<|im_end|>": True,
        "<|eot|>": True,
        "<think>": False,
    }


def test_chat_templates() -> None:
    values = sentence_piece_metadata(bundled())
    assert "chat_template" not in rebuilt(values)[1]
    values["tokenizer.chat_template"] = "{{ messages }}"
    assert rebuilt(values)[1]["chat_template"] == "{{ messages }}"
    values["tokenizer.chat_templates"] = ["tool_use"]
    values["tokenizer.chat_template.tool_use"] = "{{ tools }}"
    assert rebuilt(values)[1]["chat_template"] == [
        {"name": "default", "template": "{{ messages }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]


def test_our_own_reader_takes_it(tmp_path: Path) -> None:
    found, config, _ = rebuilt(sentence_piece_metadata(bundled()))
    found.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = TextTokenizer.load(tmp_path)
    original = TextTokenizer.load(bundled_root() / "tinystories-15m")
    for text in TEXTS:
        wanted = original.encode(text, add_bos=True)
        assert ours.encode(text, add_bos=True) == wanted
        assert ours.decode(wanted) == original.decode(wanted)
