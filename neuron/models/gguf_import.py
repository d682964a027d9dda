"""Turning a GGUF file into a model folder: EXL2, or float16 as Hugging Face has it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from neuron.exl2.convert import (
    ConvertOptions,
    ConvertReport,
    LayerReport,
    quantize_into,
)
from neuron.exl2.dense import write_dense
from neuron.exl2.new_folder import appearing
from neuron.models.errors import ModelError
from neuron.models.gguf.architecture import read_architecture
from neuron.models.gguf.file import GgufFile
from neuron.models.gguf.metadata import Metadata
from neuron.models.gguf.tensors import GgufTensors
from neuron.models.gguf.tokenizer import read_tokenizer, tokenizer_config
from neuron.models.gguf.vocabulary import Vocabulary, read_vocabulary

_SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


@dataclass(frozen=True, slots=True)
class GgufModel:
    """All of a GGUF file but its weights, translated."""

    tensors: GgufTensors
    files: dict[str, dict[str, Any]]
    """Contents by file name; config.json among them."""


def read_gguf(source: Path) -> GgufModel:
    """Translate everything but the weights, which are checked to be there.

    Raises:
        ModelError: the file is malformed, or asks for what is not supported; the
            message names the file and the key or tensor.
        OSError: it cannot be read.
    """
    file = GgufFile.open(source)
    metadata = Metadata(source, file.metadata)
    model = read_architecture(file, metadata)
    tensors = GgufTensors(file, model)
    vocabulary = read_vocabulary(metadata, model.vocab)
    tokenizer = read_tokenizer(metadata, vocabulary)
    _check_tokenizer(source, tokenizer.tokenizer)
    ids = {
        f"{role}_token_id": vocabulary.roles[role]
        for role in ("bos", "eos", "pad")
        if role in vocabulary.roles
    }
    return GgufModel(
        tensors,
        {
            "config.json": model.config() | ids,
            "generation_config.json": _generation_config(metadata, vocabulary, ids),
            "tokenizer.json": tokenizer.tokenizer,
            "tokenizer_config.json": tokenizer_config(
                metadata, vocabulary, tokenizer, model.context
            ),
        },
    )


def import_exl2(
    source: Path,
    target: Path,
    options: ConvertOptions,
    progress: Callable[[LayerReport], None] = lambda report: None,
) -> ConvertReport:
    """Quantize a GGUF file into the new EXL2 folder `target`.

    The target appears complete or not at all; one layer a worker is in memory.

    Raises:
        ModelError: the file is malformed or not supported.
        ConvertError: the options or the target are refused.
        FormatError: weights cannot be quantized.
        OSError: something cannot be read or written.
    """
    model = read_gguf(source)
    with appearing(target) as folder:
        _write_files(folder, model)
        config = model.files["config.json"]
        return quantize_into(folder, model.tensors, config, options, progress)


def import_dense(
    source: Path,
    target: Path,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> int:
    """Write a GGUF file as the new Hugging Face folder `target`, in float16.

    The target appears complete or not at all; one tensor is in memory.

    Returns:
        Bytes of the tensor files.

    Raises:
        ModelError: the file is malformed or not supported.
        ConvertError: the target is refused.
        FormatError: a weight does not fit float16.
        OSError: something cannot be read or written.
    """
    model = read_gguf(source)
    with appearing(target) as folder:
        _write_files(folder, model)
        return write_dense(folder, model.tensors, model.files["config.json"], progress)


def _check_tokenizer(source: Path, tokenizer: dict[str, Any]) -> None:
    try:
        Tokenizer.from_str(json.dumps(tokenizer))
    except Exception as error:  # The binding raises bare Exceptions.
        raise ModelError(source, f"its tokenizer cannot be rebuilt: {error}") from None


def _generation_config(
    metadata: Metadata, vocabulary: Vocabulary, ids: dict[str, int]
) -> dict[str, Any]:
    ends = vocabulary.end_ids
    config: dict[str, Any] = dict(ids)
    if ends:
        config["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    for name, key in _SAMPLING.items():
        if key in metadata:
            config[name] = metadata.number(key)
    if (key := "general.sampling.top_k") in metadata:
        config["top_k"] = metadata.integer(key)
    if "temperature" in config:
        config["do_sample"] = config["temperature"] > 0
    return config


def _write_files(folder: Path, model: GgufModel) -> None:
    for name, contents in model.files.items():
        text = json.dumps(contents, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
