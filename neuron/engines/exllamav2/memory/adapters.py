"""LoRA adapters in PEFT folders: which of them the library applies, and what they take.

Everything else that a folder may ask for the library would pass over without a word or
fail on after the model has been loaded; it is refused here, by name.
Source: exllamav2 0.3.2, lora.py; PEFT's LoraConfig.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.modules import FLOATS, LinearCost, aligned
from neuron.exl2 import FormatError
from neuron.exl2.errors import shown_name
from neuron.exl2.header import TensorSpec, read_header
from neuron.models.errors import ModelError
from neuron.models.settings import Settings
from neuron.protocol.types import LoraAdapter

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
_NAME: Final = re.compile(
    r"(?:.*\.)?(model\.layers\.(\d+)\.[a-z_.]+)\.lora_([AB])(?:\.default)?\.weight"
)
_IGNORED: Final = (
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_qalora",
)
"""Keys of adapter_config.json that change what an adapter is, and that the library
does not read or does not have."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter that fits a model."""

    folder: Path
    scale: float
    """On what it adds, lora_alpha and rank not included."""
    rank: int
    layer_bytes: Mapping[int, int]
    """Decoder layer → bytes of the adapter's matrices there."""


def read_adapters(
    model: Description, wanted: Sequence[LoraAdapter]
) -> tuple[Adapter, ...]:
    """Check adapters against a model; weights are not read.

    Raises:
        EngineError: one cannot be applied; it is named.
    """
    if wanted and not model.architecture.lora:
        raise _refused(
            f"exllamav2 applies no adapters to {model.info.architecture} models"
        )
    return tuple(_read(model, one) for one in wanted)


def _read(model: Description, wanted: LoraAdapter) -> Adapter:
    folder = model.info.path / wanted.path
    try:
        config = Settings.read(folder / CONFIG)
        rank = config.integer("r")
        _check_config(folder, config)
        if not (folder / WEIGHTS).is_file():
            raise _refused(f"{folder} has no {WEIGHTS}; pickles are never opened")
        tensors = read_header(folder / WEIGHTS)
    except (ModelError, FormatError, OSError) as error:
        raise _refused(str(error)) from None
    layers: Counter[int] = Counter()
    for spec, layer in _checked(folder, tensors, _linears(model)):
        layers[layer] += aligned(2 * prod(spec.shape))
    return Adapter(folder, wanted.scale, rank, dict(layers))


def _check_config(folder: Path, config: Settings) -> None:
    kind = config.get("peft_type")
    if kind not in (None, "LORA"):
        raise _refused(f"{folder}: peft_type {kind!r} is not 'LORA'")
    if config.get("bias") not in (None, "none"):
        raise _refused(f"{folder}: bias {config.get('bias')!r} is not 'none'")
    for key in _IGNORED:
        if config.get(key):
            raise _refused(f"{folder}: exllamav2 does not apply an adapter's {key}")
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise _refused(f"{folder}: lora_alpha {alpha!r} is no number")


def _linears(model: Description) -> dict[str, LinearCost]:
    return {
        linear.key.removeprefix(model.architecture.prefix): linear
        for module in model.modules
        for linear in module.linears
        if module.kind in ("attention", "mlp")
    }


def _checked(
    folder: Path, tensors: Mapping[str, TensorSpec], linears: Mapping[str, LinearCost]
) -> Iterator[tuple[TensorSpec, int]]:
    """Each tensor and its layer, after every one of them was found to fit."""
    halves: dict[str, dict[str, TensorSpec]] = defaultdict(dict)
    for name, spec in tensors.items():
        found = _NAME.fullmatch(name)
        linear = linears.get(found[1]) if found else None
        if found is None or linear is None:
            raise _refused(
                f"{folder}: the model has no layer for tensor {shown_name(name)}"
            )
        if spec.dtype not in FLOATS or len(spec.shape) != 2:
            raise _refused(f"{folder}: {shown_name(name)} is no matrix of floats")
        size, expected = (
            (spec.shape[1], linear.rows)
            if found[3] == "A"
            else (spec.shape[0], linear.columns)
        )
        if size != expected:
            raise _refused(
                f"{folder}: {shown_name(name)} is for {size} features, the model's "
                f"layer has {expected}"
            )
        halves[found[1]][found[3]] = spec
        yield spec, int(found[2])
    for key, both in halves.items():
        if len(both) != 2 or both["A"].shape[0] != both["B"].shape[1]:
            raise _refused(f"{folder}: {key} has no A and B of one rank")


def _refused(reason: str) -> EngineError:
    return EngineError(f"loras: {reason}", code="unsupported", param="loras")
