"""Whether this engine can run a model, told from JSON files and headers alone.

Each check stands for something that exllamav2 meets only while it loads or runs: an
assertion, an exception in C++, a read past a buffer's end, or wrong output.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Final

from neuron.engines.exllamav2.loading.context import rope_kind, unknown_rope
from neuron.engines.exllamav2.memory.description import (
    Description,
    UnsupportedModelError,
)
from neuron.exl2.errors import shown_name
from neuron.models.errors import ModelError
from neuron.models.info import ModelInfo
from neuron.models.vision import FAMILIES, PREPROCESSOR

HEAD_DIMS: Final = range(32, 257)
_HEAD_DIM_STEP: Final = 8
_NORM_STEP: Final = 64
"""Heads are normalized by whole warps, two numbers a thread; the rest of a warp that is
none takes part with whatever it holds."""
_DTYPES: Final = ("I32", "I16", "F16", "BF16", "F32")
_MAX_ROWS: Final = 65535
"""A row's number is kept in 16 bits."""
_ROW_STEP: Final = 32
_LAYER_PARTS: Final = ("attention", "mlp")
_MLPS: Final = ("mlp", "experts")


def unsupported_reason(info: ModelInfo) -> str | None:
    """Why the engine cannot run the model; None where it can."""
    try:
        model = Description.of(info)
        for check in _CHECKS:
            check(model)
    except (UnsupportedModelError, ModelError) as error:
        return str(error)
    return None


def _check_architecture(model: Description) -> None:
    names = model.config.get("architectures")
    if isinstance(names, list) and len(names) > 1:
        raise UnsupportedModelError(
            f"config.json names {len(names)} architectures; exllamav2 takes one"
        )
    wanted = model.architecture.vision_model_type
    if wanted is None:
        return
    found = model.config.section("vision_config").get("model_type")
    if found != wanted:
        raise UnsupportedModelError(
            f"{model.info.architecture} with vision_config.model_type {found!r}: "
            f"exllamav2 reads {wanted!r} only"
        )


def _check_preprocessor(model: Description) -> None:
    """The library reads it with every vision model, whether or not images will come."""
    info = model.info
    if info.architecture in FAMILIES and not (info.path / PREPROCESSOR).is_file():
        raise UnsupportedModelError(
            f"{PREPROCESSOR} is missing, which exllamav2 reads of {info.architecture}"
        )


def _check_heads(model: Description) -> None:
    info = model.info
    if info.head_dim not in HEAD_DIMS or info.head_dim % _HEAD_DIM_STEP:
        raise UnsupportedModelError(
            f"head_dim {info.head_dim} is not a multiple of {_HEAD_DIM_STEP} from "
            f"{HEAD_DIMS[0]} to {HEAD_DIMS[-1]}, which attention kernels need"
        )
    if (
        model.architecture.qk_norm
        and info.head_dim % _NORM_STEP
        and _has_qk_norm(model)
    ):
        raise UnsupportedModelError(
            f"head_dim {info.head_dim} is no multiple of {_NORM_STEP}, which exllamav2 "
            "normalizes queries and keys by"
        )
    if info.heads % info.kv_heads:
        raise UnsupportedModelError(
            f"num_attention_heads {info.heads} is no multiple of "
            f"num_key_value_heads {info.kv_heads}"
        )


def _has_qk_norm(model: Description) -> bool:
    return any(name.endswith(".q_norm.weight") for name in model.tensors.specs)


def _check_positions(model: Description) -> None:
    kind = rope_kind(model.config.get("rope_scaling"), model.config)
    if (reason := unknown_rope(kind)) is not None:
        raise UnsupportedModelError(reason)


def _check_quantization(model: Description) -> None:
    found = model.quantization
    method = found.get("quant_method")
    expected = {"exl2": (None, "exl2"), "gptq": (None, "gptq"), "fp16": (None,)}
    if method not in expected[model.info.format]:
        raise UnsupportedModelError(
            f"quantization_config.quant_method {method!r}: exllamav2 reads EXL2, "
            "4-bit GPTQ and unquantized float models"
        )
    if model.info.format == "gptq":
        _check_gptq(model)


def _check_gptq(model: Description) -> None:
    found = model.quantization
    if (bits := found.get("bits")) not in (None, 4):
        raise UnsupportedModelError(
            f"GPTQ with quantization_config.bits {bits!r}: exllamav2 reads 4 bits"
        )
    layout = found.get("checkpoint_format")
    if layout not in (None, "gptq", "gptq_v2"):
        raise UnsupportedModelError(
            f"GPTQ with quantization_config.checkpoint_format {layout!r}: exllamav2 "
            "reads 'gptq' and 'gptq_v2'"
        )
    for name, spec in model.tensors.specs.items():
        if not name.endswith(".qzeros"):
            continue
        packed = model.tensors.specs.get(f"{name.removesuffix('.qzeros')}.qweight")
        if packed is None:
            raise UnsupportedModelError(f"tensor {shown_name(name)} has no qweight")
        rows, groups = 8 * packed.shape[0], spec.shape[0]
        size = rows // groups if groups else 0
        if not size or size & (size - 1) or size * groups != rows:
            raise UnsupportedModelError(
                f"{shown_name(name)}: {groups} groups over {rows} rows; a group must "
                "have a power of two"
            )


def _check_dtypes(model: Description) -> None:
    architecture = model.architecture
    for name, spec in model.tensors.specs.items():
        part = name.rpartition(".")[2]
        if spec.dtype in _DTYPES or part not in ("weight", "bias", "q_weight"):
            continue
        if name.startswith(architecture.prefix):
            raise UnsupportedModelError(
                f"tensor {shown_name(name)} is {spec.dtype}; exllamav2 reads "
                + ", ".join(_DTYPES)
            )


def _check_shapes(model: Description) -> None:
    for linear in (part for module in model.modules for part in module.linears):
        if not linear.quantized:
            continue
        if linear.rows % _ROW_STEP or linear.columns % _ROW_STEP:
            raise UnsupportedModelError(
                f"{shown_name(linear.key)} is {linear.rows} by {linear.columns}; "
                f"both must be multiples of {_ROW_STEP}"
            )
        if linear.rows > _MAX_ROWS:
            raise UnsupportedModelError(
                f"{shown_name(linear.key)} has {linear.rows} rows, over {_MAX_ROWS}"
            )


def _check_activation(model: Description) -> None:
    """The kernel takes two columns a thread, and no half of a block."""
    columns = model.sizes.intermediate
    if -(-columns // _ROW_STEP) % 2 and any(
        module.quantized for module in model.modules if module.kind in _MLPS
    ):
        raise UnsupportedModelError(
            f"an MLP of {columns} columns: exllamav2 would leave the last {_ROW_STEP} "
            f"of them without activation, where they are no multiple of {2 * _ROW_STEP}"
        )


def _check_mixture(model: Description) -> None:
    for module in model.modules:
        kinds = {linear.quantized for linear in module.linears}
        if module.kind in _LAYER_PARTS and len(kinds) > 1:
            raise UnsupportedModelError(
                f"layer {module.layer}: its {module.kind} is quantized in part only"
            )


def _check_completeness(model: Description) -> None:
    found = {(m.kind, m.layer) for m in model.modules if m.linears}
    for kind in ("embedding", "head"):
        if not any(kind == there for there, _ in found):
            raise UnsupportedModelError(f"the model has no {kind} tensor")
    for layer in range(model.sizes.layers):
        if ("attention", layer) not in found:
            raise UnsupportedModelError(f"layer {layer} has no attention tensors")
        if not {("mlp", layer), ("experts", layer)} & found:
            raise UnsupportedModelError(f"layer {layer} has no MLP tensors")


def _check_packing(model: Description) -> None:
    specs = model.tensors.specs
    for key in _packed_keys(model):
        missing = [
            part
            for part in ("q_scale", "q_scale_max", "q_groups", "q_invperm")
            if f"{key}.{part}" not in specs
        ]
        if missing:
            raise UnsupportedModelError(
                f"{shown_name(key)} has no {', '.join(missing)}"
            )
        groups = prod(specs[f"{key}.q_scale_max"].shape)
        if prod(specs[f"{key}.q_groups"].shape) != 2 * groups:
            raise UnsupportedModelError(
                f"{shown_name(key)}: q_groups does not fit {groups} groups"
            )


def _packed_keys(model: Description) -> Iterator[str]:
    for name in model.tensors.specs:
        if name.endswith(".q_weight"):
            yield name.removesuffix(".q_weight")


_CHECKS: Final[tuple[Callable[[Description], None], ...]] = (
    _check_architecture,
    _check_preprocessor,
    _check_heads,
    _check_positions,
    _check_quantization,
    _check_dtypes,
    _check_packing,
    _check_shapes,
    _check_activation,
    _check_mixture,
    _check_completeness,
)
