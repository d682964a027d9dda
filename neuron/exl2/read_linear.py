"""Finding out how a linear layer is stored, and whether its tensors fit together."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.errors import FormatError
from neuron.exl2.exl2_linear import (
    COLUMN_MULTIPLE,
    MAX_IN_FEATURES,
    Exl2Linear,
    parse_groups,
)
from neuron.exl2.gptq_linear import BITS as GPTQ_BITS, GptqLinear, default_groups
from neuron.exl2.linear import DenseLinear, Linear

if TYPE_CHECKING:
    from neuron.exl2.directory import TensorDirectory

_FLOATS = ("F16", "BF16", "F32")


def read_linear(
    source: "TensorDirectory", key: str, out_features: int | None
) -> Linear:
    """The layer `key`, in whichever of the three ways it is stored.

    Raises:
        FormatError: it is not there, or its tensors do not fit together.
    """
    if f"{key}.q_weight" in source.specs:
        return _read_exl2(source, key, out_features)
    if f"{key}.qweight" in source.specs:
        linear: Linear = _read_gptq(source, key)
    elif f"{key}.weight" in source.specs:
        linear = _read_dense(source, key)
    else:
        raise FormatError(source.path, key, "has no q_weight, qweight or weight")
    if out_features is not None and linear.out_features != out_features:
        raise FormatError(
            source.path,
            key,
            f"has {linear.out_features} output features, not {out_features}",
        )
    return linear


def _tensor(
    source: "TensorDirectory", name: str, dtype: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """A tensor of that dtype and shape; None in `shape` is any size."""
    spec = source.spec(name)
    fits = len(spec.shape) == len(shape) and all(
        wanted is None or wanted == found
        for wanted, found in zip(shape, spec.shape, strict=False)
    )
    if spec.dtype != dtype or not fits:
        expected = "×".join("any" if size is None else str(size) for size in shape)
        found = "×".join(map(str, spec.shape))
        raise FormatError(
            spec.file, name, f"is {spec.dtype} {found}, must be {dtype} {expected}"
        )
    return source.read(name)


def _bias(
    source: "TensorDirectory", key: str, sizes: tuple[int, ...]
) -> NDArray[Any] | None:
    """The bias, cut to the first of `sizes`; any of them may be on disk."""
    name = f"{key}.bias"
    if name not in source.specs:
        return None
    spec = source.specs[name]
    if spec.dtype not in _FLOATS or spec.shape not in {(size,) for size in sizes}:
        raise FormatError(
            spec.file,
            name,
            f"is {spec.dtype} {list(spec.shape)}, must be float [{sizes[0]}]",
        )
    return source.read(name)[: sizes[0]]


def _read_exl2(
    source: "TensorDirectory", key: str, out_features: int | None
) -> Exl2Linear:
    q_weight = _tensor(source, f"{key}.q_weight", "I32", (None, None))
    words, columns = q_weight.shape
    if not words or not columns or columns % COLUMN_MULTIPLE:
        raise _refused(
            source,
            f"{key}.q_weight",
            f"has {words} rows and {columns} columns, which must be a positive "
            f"multiple of {COLUMN_MULTIPLE}",
        )
    if out_features is None:
        out_features = columns
    elif not columns - COLUMN_MULTIPLE < out_features <= columns:
        raise _refused(
            source,
            f"{key}.q_weight",
            f"has {columns} columns, too few or too many for {out_features} features",
        )
    q_groups = _tensor(source, f"{key}.q_groups", "I16", (None,))
    if not len(q_groups) or len(q_groups) % 2:
        raise _refused(source, f"{key}.q_groups", "must hold pairs, at least one")
    count = len(q_groups) // 2
    q_scale = _tensor(source, f"{key}.q_scale", "I32", (count, columns // 8))
    q_scale_max = _tensor(source, f"{key}.q_scale_max", "F16", (count,))
    try:
        groups = parse_groups(q_groups.view(np.uint16), words)
    except ValueError as error:
        raise _refused(source, f"{key}.q_groups", str(error)) from None
    return Exl2Linear(
        q_weight=q_weight.view(np.uint32),
        q_scale=q_scale.view(np.uint32),
        q_scale_max=q_scale_max,
        q_invperm=_permutation(source, key, sum(group.rows for group in groups)),
        groups=groups,
        out_features=out_features,
        bias=_bias(source, key, (out_features, columns)),
    )


def _permutation(source: "TensorDirectory", key: str, rows: int) -> NDArray[np.int32]:
    name = f"{key}.q_invperm"
    if rows > MAX_IN_FEATURES:
        raise _refused(source, name, f"{rows} rows are over {MAX_IN_FEATURES}")
    q_invperm = _tensor(source, name, "I32", (rows,))
    seen = np.zeros(rows, dtype=np.bool_)
    seen[q_invperm[(q_invperm >= 0) & (q_invperm < rows)]] = True
    if not seen.all():
        raise _refused(source, name, f"is not a permutation of 0 to {rows - 1}")
    return q_invperm


def _read_gptq(source: "TensorDirectory", key: str) -> GptqLinear:
    qweight = _tensor(source, f"{key}.qweight", "I32", (None, None))
    words, columns = qweight.shape
    if not words or words % GPTQ_BITS or not columns or columns % 8:
        raise _refused(
            source,
            f"{key}.qweight",
            f"is {words}×{columns}; {GPTQ_BITS}-bit layers have input features in "
            "multiples of 32 and output features in multiples of 8",
        )
    rows = words * 8
    qzeros = _tensor(source, f"{key}.qzeros", "I32", (None, columns // 8))
    count = qzeros.shape[0]
    if not 1 <= count <= rows:
        raise _refused(source, f"{key}.qzeros", f"has {count} groups for {rows} rows")
    scales_name = f"{key}.scales"
    scales_dtype = source.spec(scales_name).dtype
    if scales_dtype not in _FLOATS:
        raise _refused(source, scales_name, f"is {scales_dtype}, must be a float")
    scales = _tensor(source, scales_name, scales_dtype, (count, columns))
    with np.errstate(all="ignore"):
        scales = scales.astype(np.float16, copy=False)
    bias = _bias(source, key, (columns,))
    return GptqLinear(
        qweight=qweight.view(np.uint32),
        qzeros=qzeros.view(np.uint32),
        scales=scales,
        group_of_row=_group_of_row(source, key, rows, count),
        zeros_are_less_one=(
            source.quantization_config.get("checkpoint_format") != "gptq_v2"
        ),
        bias=bias if bias is not None and bias.any() else None,
    )


def _group_of_row(
    source: "TensorDirectory", key: str, rows: int, count: int
) -> NDArray[np.int32]:
    name = f"{key}.g_idx"
    if name not in source.specs:
        return default_groups(rows, count)
    g_idx = _tensor(source, name, "I32", (rows,))
    if not g_idx.any():
        return default_groups(rows, count)
    if g_idx.min() < 0 or g_idx.max() >= count:
        raise _refused(source, name, f"names a group outside 0 to {count - 1}")
    return g_idx


def _read_dense(source: "TensorDirectory", key: str) -> DenseLinear:
    name = f"{key}.weight"
    spec = source.spec(name)
    if spec.dtype not in _FLOATS or len(spec.shape) != 2:
        raise _refused(
            source, name, f"is {spec.dtype} {list(spec.shape)}, must be a float matrix"
        )
    return DenseLinear(source.read(name), _bias(source, key, (spec.shape[0],)))


def _refused(source: "TensorDirectory", name: str, reason: str) -> FormatError:
    return FormatError(source.spec(name).file, name, reason)
