"""What a model folder is going to be quantized into, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuron.exl2.architectures import (
    EMBEDDING,
    HEAD,
    SUPPORTED,
    kept_names,
    linear_keys,
    required_names,
)
from neuron.exl2.bitstream import WIDTHS
from neuron.exl2.errors import FormatError, shown_name
from neuron.exl2.recipe import GroupPlan, LayerShape, mixed, stored_bits, uniform
from neuron.exl2.source import FLOATS, TensorSource
from neuron.exl2.write import TensorPlan


class ConvertError(Exception):
    """The conversion is refused; nothing was written."""


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What the result should be like."""

    bits: float
    """Mean bits per weight of the layers without the head, all overhead included."""
    head_bits: int = 6
    """Width of every level in lm_head; its overhead comes on top."""
    group_rows: int = 32
    """Rows that share a scale."""
    max_shard_bytes: int = 8 << 30
    workers: int = 1
    """Layers quantized at a time; the result does not depend on it."""

    def check(self) -> None:
        """Raises: ConvertError, where a value is one that no model can have."""
        if self.head_bits not in WIDTHS:
            raise ConvertError(
                f"head_bits must be one of {sorted(WIDTHS)}, not {self.head_bits}"
            )
        low, high = min(WIDTHS), max(WIDTHS)
        if not low <= self.bits <= high:
            raise ConvertError(f"bits must be within {low} and {high}, not {self.bits}")


@dataclass(frozen=True, slots=True)
class LayerJob:
    """One linear layer to quantize."""

    key: str
    weight: str
    """Name of its weight in the source; the embedding where the head is tied."""
    bias: str | None
    shape: LayerShape
    groups: GroupPlan

    def tensors(self) -> list[TensorPlan]:
        """The tensors that `Exl2Linear.tensors` is going to give."""
        count, columns = len(self.groups), self.shape.columns
        words = sum(bits * rows for bits, rows in self.groups) // 32
        parts: list[tuple[str, str, tuple[int, ...]]] = [
            ("q_groups", "I16", (2 * count,)),
            ("q_invperm", "I32", (self.shape.in_features,)),
            ("q_scale", "I32", (count, columns // 8)),
            ("q_scale_max", "F16", (count,)),
            ("q_weight", "I32", (words, columns)),
        ]
        if self.bias is not None:
            parts.append(("bias", "F16", (self.shape.out_features,)))
        return [
            TensorPlan(f"{self.key}.{part}", dtype, shape)
            for part, dtype, shape in parts
        ]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Every tensor of the result."""

    kept: tuple[TensorPlan, ...]
    """Tensors that stay what they are, as float16."""
    layers: tuple[LayerJob, ...]
    head: LayerJob

    @property
    def jobs(self) -> tuple[LayerJob, ...]:
        return (*self.layers, self.head)

    @property
    def tensors(self) -> list[TensorPlan]:
        return [*self.kept, *(plan for job in self.jobs for plan in job.tensors())]


def mean_bpw(jobs: Sequence[LayerJob]) -> float:
    """Bits per weight over several layers, all that they take counted."""
    bits = sum(stored_bits(job.shape, job.groups) for job in jobs)
    return bits / sum(job.shape.weights for job in jobs)


def plan_conversion(
    tensors: TensorSource, config: Mapping[str, object], options: ConvertOptions
) -> ConversionPlan:
    """Decide what becomes of each tensor.

    Raises:
        ConvertError: the architecture or a size is refused.
        FormatError: the model lacks a tensor, or one is malformed.
    """
    layers, tied = _read_config(tensors, config)
    keys = linear_keys(layers)
    try:
        kept = kept_names(tensors.specs, keys, tied=tied)
    except ValueError as error:
        raise ConvertError(f"{tensors.path}: {error}") from None
    for name in required_names(layers):
        tensors.spec(name)
    shapes = [_shape(tensors, f"{key}.weight") for key in keys]
    head_weight = EMBEDDING if tied else f"{HEAD}.weight"
    head_shape = _shape(tensors, head_weight)
    try:
        mixes = mixed(shapes, options.bits, options.group_rows)
        head_groups = uniform(head_shape, options.head_bits, options.group_rows)
    except ValueError as error:
        raise ConvertError(f"{tensors.path}: {error}") from None
    return ConversionPlan(
        kept=tuple(TensorPlan(n, "F16", tensors.spec(n).shape) for n in kept),
        layers=tuple(
            LayerJob(key, f"{key}.weight", _bias(tensors, key, shape), shape, groups)
            for key, shape, groups in zip(keys, shapes, mixes, strict=True)
        ),
        head=LayerJob(
            HEAD, head_weight, _bias(tensors, HEAD, head_shape), head_shape, head_groups
        ),
    )


def _read_config(
    tensors: TensorSource, config: Mapping[str, object]
) -> tuple[int, bool]:
    """(number of layers, whether the head is tied), if the model is one of ours."""
    file = tensors.path / "config.json"
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in SUPPORTED:
        shown = shown_name(name) if isinstance(name, str) else "(none)"
        raise ConvertError(
            f"{file}: architecture {shown} is not supported; these are: "
            f"{', '.join(SUPPORTED)}"
        )
    if config.get("quantization_config") is not None:
        raise ConvertError(f"{file}: the model is quantized already")
    layers = config.get("num_hidden_layers")
    if type(layers) is not int or not 0 < layers <= len(tensors.specs):
        raise FormatError(
            file, None, "num_hidden_layers must be the number of layers in the files"
        )
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise FormatError(file, None, "tie_word_embeddings must be true or false")
    return layers, tied


def _shape(tensors: TensorSource, name: str) -> LayerShape:
    """Shape of a stored [out_features, in_features] weight."""
    spec = tensors.spec(name)
    if spec.dtype not in FLOATS or len(spec.shape) != 2 or 0 in spec.shape:
        raise FormatError(
            spec.file,
            name,
            f"is {spec.dtype} {list(spec.shape)}, must be a float matrix",
        )
    return LayerShape(in_features=spec.shape[1], out_features=spec.shape[0])


def _bias(tensors: TensorSource, key: str, shape: LayerShape) -> str | None:
    """The name of the layer's bias, where it has one."""
    name = f"{key}.bias"
    if name not in tensors.specs:
        return None
    spec = tensors.specs[name]
    if spec.shape != (shape.out_features,):
        raise FormatError(
            spec.file, name, f"is {list(spec.shape)}, must be [{shape.out_features}]"
        )
    return name
