"""What is not supported is refused by name before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron.models.errors import ModelError
from neuron.models.gguf_import import import_dense
from tests.support.gguf_files import (
    Metadata,
    Tensors,
    metadata_of,
    tensors_of,
    write_gguf,
)
from tests.unit.reference.support import tiny

Change = Callable[[Metadata, Tensors], None]


def keys(**changes: Any) -> Change:
    """Sets keys, of which `__` is a dot; None takes one away."""

    def change(metadata: Metadata, contents: Tensors) -> None:
        for name, value in changes.items():
            key = name.replace("__", ".")
            if value is None:
                del metadata[key]
            else:
                metadata[key] = value

    return change


def tensor(name: str, value: Any) -> Change:
    def change(metadata: Metadata, contents: Tensors) -> None:
        if value is None:
            del contents[name]
        else:
            contents[name] = np.array(value, np.float32)

    return change


def tokens(**by_place: str) -> Change:
    def change(metadata: Metadata, contents: Tensors) -> None:
        for place, token in by_place.items():
            metadata["tokenizer.ggml.tokens"][int(place[1:])] = token

    return change


def refusal(tmp_path: Path, change: Change, model: str = "llama") -> str:
    metadata, contents = metadata_of(tiny(model)), tensors_of(tiny(model))
    change(metadata, contents)
    file = write_gguf(tmp_path / "m.gguf", metadata, contents)
    with pytest.raises(ModelError) as raised:
        import_dense(file, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    message = str(raised.value)
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            keys(general__architecture="gemma2"),
            "general.architecture 'gemma2' is not supported; these are: llama, qwen2",
        ),
        (keys(general__type="adapter"), "general.type is 'adapter'; only models"),
        (keys(split__count=3), "split.count says that this is one file of several"),
        (keys(llama__expert_count=8), "llama.expert_count is not supported"),
        (keys(llama__expert_count=[0, 0]), "llama.expert_count is not supported"),
        (keys(split__count=[1, 2]), "split.count must be a number, not an array"),
        (keys(llama__logit_scale=2.0), "llama.logit_scale is not supported"),
        (keys(llama__attention__causal=False), "llama.attention.causal is not supp"),
        (keys(llama__block_count=None), "llama.block_count is missing"),
        (keys(llama__block_count=1 << 31), "llama.block_count 2147483648 is more than"),
        (keys(llama__block_count=3), "tensor 'blk.2.attn_norm.weight' is missing"),
        (keys(llama__block_count=1), "tensor 'blk.1.attn_norm.weight' has no place"),
        (
            keys(llama__attention__head_count=[4, 4]),
            "llama.attention.head_count must be a positive integer, not an array",
        ),
        (keys(llama__attention__head_count_kv=3), "head_count_kv 3 does not divide 4"),
        (keys(llama__context_length="x"), "llama.context_length must be a positive"),
        (keys(llama__attention__value_length=8), "attention.value_length is 8, must"),
        (keys(llama__rope__dimension_count=8), "rope.dimension_count is 8, must be"),
        (keys(llama__rope__freq_base=0.0), "llama.rope.freq_base must be above 0"),
        (
            keys(llama__attention__layer_norm_rms_epsilon=None),
            "llama.attention.layer_norm_rms_epsilon is missing",
        ),
        (
            keys(llama__rope__scaling__type="longrope"),
            "llama.rope.scaling.type 'longrope' is not supported; these are: none",
        ),
        (
            keys(llama__rope__scaling__type="yarn"),
            "llama.rope.scaling.factor must be above 0",
        ),
        (
            keys(
                llama__rope__scaling__type="yarn",
                llama__rope__scaling__factor=4.0,
                llama__rope__scaling__attn_factor=0.5,
            ),
            "llama.rope.scaling.attn_factor 0.5 is not supported",
        ),
        (
            tensor("rope_freqs.weight", [1, 2, 1, 2, 1, 2, 1, 2]),
            "'rope_freqs.weight' does not scale frequencies as Llama 3.1 does",
        ),
        (tensor("rope_freqs.weight", [2]), "'rope_freqs.weight' is [1], not [8]"),
        (tensor("rope_freqs.weight", [0.0] * 8), "holds what no frequency can be divi"),
        (tensor("token_embd.weight", None), "tensor 'token_embd.weight' is missing"),
        (tensor("output_norm.weight", [1]), "is [1], the metadata say [64]"),
        (tensor("blk.0.ffn_gate_inp.weight", [1]), "ffn_gate_inp.weight' has no place"),
        (tensor("blk.0.attn_q.bias", [0] * 64), "'blk.0.attn_k.bias' is missing"),
        (keys(tokenizer__ggml__model="bert"), "tokenizer.ggml.model 'bert' is not"),
        (keys(tokenizer__ggml__model=None), "tokenizer.ggml.model is missing"),
        (keys(tokenizer__ggml__pre=None), "tokenizer.ggml.pre is missing: how text is"),
        (
            keys(tokenizer__ggml__pre="default"),
            "tokenizer.ggml.pre 'default' is not supported; these are: gpt-2, llama3",
        ),
        (keys(tokenizer__ggml__tokens=["a"]), "has 1 tokens, the embedding has 96"),
        (keys(tokenizer__ggml__tokens=7), "tokens must be an array of strings, not 7"),
        (
            keys(tokenizer__ggml__token_type=[1]),
            "tokenizer.ggml.token_type has 1 elements, must have 96",
        ),
        (keys(tokenizer__ggml__token_type=[9] * 96), "token_type is malformed: 9"),
        (keys(tokenizer__ggml__eos_token_id=96), "eos_token_id must be a token id"),
        (tokens(_4="a" * 1025), "tokenizer.ggml.tokens has a token of 1025 characters"),
        (tokens(_4="a"), "tokenizer.ggml.tokens has 'a' 2 times"),
        (
            keys(tokenizer__ggml__merges=["a b", "a c"]),
            "tokenizer.ggml.merges has no two tokens that make a third at 1: 'a c'",
        ),
        (keys(tokenizer__ggml__merges=["ab"]), "make a third at 0: 'ab'"),
        (
            keys(
                tokenizer__ggml__bos_token_id=None, tokenizer__ggml__add_bos_token=True
            ),
            "tokenizer.ggml.add_bos_token is true, and no bos_token_id is given",
        ),
        (
            keys(tokenizer__chat_template=1),
            "tokenizer.chat_template must be a string, not 1",
        ),
        (
            keys(
                tokenizer__ggml__model="llama", tokenizer__ggml__scores=[0.0] * 96
            ),
            "tokenizer.ggml.tokens lacks the byte token <0x00>",
        ),
        (
            keys(tokenizer__ggml__model="llama"),
            "tokenizer.ggml.scores is missing",
        ),
    ],
)  # fmt: skip
def test_refused_by_name(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(tmp_path, change)


def test_a_window_that_the_architecture_does_not_have(tmp_path: Path) -> None:
    change = keys(qwen3__attention__sliding_window=16)
    reason = "qwen3.attention.sliding_window is not supported in this architecture"
    assert refusal(tmp_path, change, "qwen3") == reason


def test_norms_of_heads_must_be_there(tmp_path: Path) -> None:
    change = tensor("blk.1.attn_k_norm.weight", None)
    assert refusal(tmp_path, change, "qwen3") == (
        "tensor 'blk.1.attn_k_norm.weight' is missing"
    )


@pytest.mark.parametrize(
    "change",
    [
        keys(llama__expert_count=0, llama__rope__scaling__finetuned=True),
        keys(llama__rope__scaling__type="none", llama__attention__causal=True),
        keys(llama__rope__scaling__type="linear", llama__rope__scaling__factor=1.0),
        tensor("rope_freqs.weight", [1.0] * 8),
        keys(split__count=1),
    ],
)
def test_what_changes_nothing_is_fine(tmp_path: Path, change: Change) -> None:
    metadata, contents = metadata_of(tiny("llama")), tensors_of(tiny("llama"))
    change(metadata, contents)
    file = write_gguf(tmp_path / "m.gguf", metadata, contents)
    import_dense(file, tmp_path / "imported")
    text = (tmp_path / "imported" / "config.json").read_text()
    assert "rope_scaling" not in text
