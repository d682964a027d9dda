"""Finding out what a model folder holds, from JSON files and headers alone."""

import os
import re
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Final

from neuron.exl2 import FormatError, TensorDirectory, open_model
from neuron.exl2.errors import shown_name
from neuron.exl2.header import ITEM_BYTES, TensorSpec
from neuron.models.errors import ModelError
from neuron.models.info import Format, ModelInfo
from neuron.models.settings import Settings
from neuron.models.vision import read_vision
from neuron.template_files import find_templates

_HEAD: Final = "lm_head"
_MARKS: Final[tuple[tuple[Format, str], ...]] = (
    ("exl2", ".q_weight"),
    ("gptq", ".qweight"),
)
"""How the packed weight of a layer is named in each quantized format."""
_PARTS: Final = (
    "q_weight",
    "q_scale",
    "q_scale_max",
    "q_groups",
    "q_invperm",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
)
"""What a quantized layer takes on disk, its bias aside."""
_THOUGHT: Final = re.compile(
    r"</?(seed:)?(think|thinking|thought|reasoning)>|\[/?THINK\]"
    r"|<\|(START|END)_THINKING\|>|<\|(begin|end)_of_thought\|>"
)
"""How models mark what they think; `neuron.text.reasoning` reads the same."""


def inspect_model(path: Path, model_id: str) -> ModelInfo:
    """Describe a model folder; weights are not read.

    Whether an engine can run the architecture is for the engine to say.

    Raises:
        ModelError: a file is missing or malformed; it is named, with the key at fault.
    """
    config = Settings.read(path / "config.json")
    generation = Settings.read_if_there(path / "generation_config.json")
    tokenizer = Settings.read_if_there(path / "tokenizer_config.json")
    _check_tokenizer(path)
    try:
        tensors = open_model(path)
    except FormatError as error:
        where = "" if error.tensor is None else f"tensor {shown_name(error.tensor)}: "
        raise ModelError(error.file, where + error.reason) from None
    except OSError as error:
        raise ModelError(path, f"cannot be read: {error}") from None
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    shared = 1 if config.get("multi_query") is True else heads
    inner = 4 * hidden if config.get("n_embd") is not None else None
    kind = _format(tensors)
    template = _chat_template(path, tokenizer)
    architecture = _architecture(config)
    vocab_size = config.integer("vocab_size")
    bos = generation.ids("bos_token_id") or config.ids("bos_token_id")
    eos = generation.ids("eos_token_id") or config.ids("eos_token_id")
    return ModelInfo(
        id=model_id,
        path=path,
        format=kind,
        architecture=architecture,
        bpw=_bits_per_weight(tensors, kind),
        head_bits=_head_bits(tensors, config),
        layers=config.integer("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=config.integer("intermediate_size", inner),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", shared),
        head_dim=config.integer("head_dim", max(1, hidden // heads)),
        vocab_size=vocab_size,
        context=config.integer("max_position_embeddings"),
        weight_bytes=sum(spec.nbytes for spec in tensors.specs.values()),
        # Ids beyond the vocabulary are of tokens that no answer ends with.
        eos_ids=tuple(id_ for id_ in eos if id_ < vocab_size),
        bos_id=bos[0] if bos else None,
        has_chat_template=bool(template),
        thinks=_THOUGHT.search(template) is not None,
        vision=read_vision(path, architecture, config, template),
        parameters=_parameters(tensors, kind),
    )


def _check_tokenizer(path: Path) -> None:
    file = path / "tokenizer.json"
    if os.path.isfile(file):
        return
    slow = os.path.isfile(path / "tokenizer.model")
    hint = "; tokenizer.model does not stand in for it" if slow else ""
    raise ModelError(file, f"is missing{hint}")


def _architecture(config: Settings) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError(
            config.file, "architectures must be a list that starts with a name"
        )
    return names[0]


def _chat_template(path: Path, tokenizer: Settings) -> str:
    """All that is written of templates, by whichever name; empty where there is none.

    Raises:
        ModelError: a file is damaged.
    """
    given = {"chat_template": tokenizer.get("chat_template")}
    try:
        return "\n".join(find_templates(path, given).values())
    except FormatError as error:
        raise ModelError(error.file, error.reason) from error


def _format(tensors: TensorDirectory) -> Format:
    for kind, suffix in _MARKS:
        if any(name.endswith(suffix) for name in tensors.specs):
            return kind
    return "fp16"


def _bits_per_weight(tensors: TensorDirectory, kind: Format) -> float:
    """Mean over the layers that are in the model's format, head excluded."""
    keys = [key for key in _layer_keys(tensors, kind) if key != _HEAD]
    weights = sum(_weights(tensors, key, kind) for key in keys)
    bits = sum(_stored_bits(tensors, key, kind) for key in keys)
    return bits / weights if weights else 0.0


def _parameters(tensors: TensorDirectory, kind: Format) -> int:
    """Weights of quantized layers, and whatever else is stored as it is."""
    packed = () if kind == "fp16" else _layer_keys(tensors, kind)
    plain = (
        prod(spec.shape)
        for name, spec in tensors.specs.items()
        if name.rpartition(".")[2] not in _PARTS
    )
    return sum(_weights(tensors, key, kind) for key in packed) + sum(plain)


def _layer_keys(tensors: TensorDirectory, kind: Format) -> Iterable[str]:
    suffix = dict(_MARKS).get(kind, ".weight")
    return (
        name.removesuffix(suffix)
        for name, spec in tensors.specs.items()
        if name.endswith(suffix) and len(spec.shape) == 2
    )


def _weights(tensors: TensorDirectory, key: str, kind: Format) -> int:
    """How many weights a layer has, columns that only pad included."""
    if kind == "exl2":
        columns = _spec(tensors, f"{key}.q_weight").shape[-1]
        return _size(tensors, f"{key}.q_invperm") * columns
    if kind == "gptq":
        return 8 * _size(tensors, f"{key}.qweight")
    return _size(tensors, f"{key}.weight")


def _stored_bits(tensors: TensorDirectory, key: str, kind: Format) -> int:
    parts = ("weight",) if kind == "fp16" else _PARTS
    specs = (tensors.specs.get(f"{key}.{part}") for part in parts)
    return 8 * sum(spec.nbytes for spec in specs if spec is not None)


def _size(tensors: TensorDirectory, name: str) -> int:
    return prod(_spec(tensors, name).shape)


def _spec(tensors: TensorDirectory, name: str) -> TensorSpec:
    if name not in tensors.specs:
        raise ModelError(tensors.path, f"tensor {name!a} is missing")
    return tensors.specs[name]


def _head_bits(tensors: TensorDirectory, config: Settings) -> float | None:
    """Bits per weight of the head: as its maker says, else as it is stored."""
    if f"{_HEAD}.q_weight" in tensors.specs:
        said = config.section("quantization_config").get("head_bits")
        if isinstance(said, int | float) and not isinstance(said, bool):
            return float(said)
        weights = _weights(tensors, _HEAD, "exl2")
        return _stored_bits(tensors, _HEAD, "exl2") / weights if weights else None
    for name in (f"{_HEAD}.weight", "model.embed_tokens.weight"):
        if name in tensors.specs:
            return 8.0 * ITEM_BYTES[tensors.specs[name].dtype]
    return None
