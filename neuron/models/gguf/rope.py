"""How a GGUF file says that the context was stretched, as `rope_scaling`.

Llama 3.1's way is not in the metadata but in a tensor `rope_freqs.weight`: what each
frequency is divided by. The four numbers that Hugging Face's configuration has for it
are found again from the tensor: in between the frequencies that are kept and those that
are divided by `factor`, 1 / divisor is a straight line over the frequency.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.errors import shown_name
from neuron.models.gguf.file import GgufFile
from neuron.models.gguf.metadata import Metadata

FREQUENCIES: Final = "rope_freqs.weight"
_PUBLISHED: Final = (8192, 4.0)
"""Original context and high_freq_factor of every Llama 3.1 and 3.2."""
_KINDS: Final = ("none", "linear", "yarn")
_TOLERANCE: Final = 1e-4


def rope_scaling(
    file: GgufFile, metadata: Metadata, name: str, theta: float, head_dim: int
) -> dict[str, object] | None:
    """The configuration's section, or None where nothing is stretched.

    Raises:
        ModelError: a kind or a value that is not supported; the message names it.
    """
    prefix = f"{name}.rope.scaling"
    kind = metadata.text(f"{prefix}.type", "linear")
    if kind not in _KINDS:
        raise metadata.error(
            f"{prefix}.type",
            f"{shown_name(kind)} is not supported; these are: {', '.join(_KINDS)}",
        )
    factor = metadata.number(f"{prefix}.factor", 0) or metadata.number(
        f"{name}.rope.scale_linear", 0
    )
    divisors = _divisors(file, metadata, head_dim)
    if divisors is not None:
        if kind == "yarn" or (kind == "linear" and factor not in (0, 1)):
            raise metadata.error(
                f"{prefix}.type", f"{kind!a} together with {FREQUENCIES}"
            )
        return _llama3(metadata, divisors, theta, head_dim)
    if kind == "none" or (kind == "linear" and factor in (0, 1)):
        return None
    if factor <= 0:
        raise metadata.error(f"{prefix}.factor", f"must be above 0, not {factor}")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    return _yarn(metadata, prefix, factor)


def _yarn(metadata: Metadata, prefix: str, factor: float) -> dict[str, object]:
    for key, only in (
        ("attn_factor", 1),
        ("yarn_attn_factor", 1),
        ("yarn_ext_factor", 1),
        ("yarn_log_multiplier", 0),
    ):
        value = metadata.number(f"{prefix}.{key}", only)
        if value != only:
            raise metadata.error(f"{prefix}.{key}", f"{value} is not supported")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata.integer(
            f"{prefix}.original_context_length"
        ),
        "beta_fast": metadata.number(f"{prefix}.yarn_beta_fast", 32.0),
        "beta_slow": metadata.number(f"{prefix}.yarn_beta_slow", 1.0),
    }


def _divisors(
    file: GgufFile, metadata: Metadata, head_dim: int
) -> NDArray[np.float64] | None:
    """[head_dim / 2] where they divide anything."""
    tensor = file.tensors.get(FREQUENCIES)
    if tensor is None:
        return None
    what = f"tensor {FREQUENCIES!a}"
    if tensor.shape != (head_dim // 2,):
        raise metadata.error(what, f"is {list(tensor.shape)}, not [{head_dim // 2}]")
    divisors = file.read(tensor).astype(np.float64)
    if not (np.isfinite(divisors) & (divisors > 0)).all():
        raise metadata.error(what, "holds what no frequency can be divided by")
    return None if (divisors == 1).all() else divisors


def _llama3(
    metadata: Metadata, divisors: NDArray[np.float64], theta: float, head_dim: int
) -> dict[str, object]:
    turns = theta ** -(np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    factor = float(divisors.max())
    for context, high in (_PUBLISHED, *_fitted(divisors, turns, factor)):
        keep = np.clip((turns * context - 1) / (high - 1), 0, 1)
        found = 1 / ((1 - keep) / factor + keep)
        if np.allclose(found, divisors, rtol=_TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise metadata.error(
        f"tensor {FREQUENCIES!a}", "does not scale frequencies as Llama 3.1 does"
    )


def _fitted(
    divisors: NDArray[np.float64], turns: NDArray[Any], factor: float
) -> list[tuple[int, float]]:
    """(original context, high_freq_factor), with a low_freq_factor of 1, which only
    fixes what the other two are counted in; none where no line can be drawn."""
    between = (divisors > 1) & (divisors < factor)
    if between.sum() < 2 or factor == 1:
        return []
    keep = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
    slope, start = np.polyfit(turns[between], keep, 1)
    if not (np.isfinite(slope) and np.isfinite(start)) or start >= 0 or slope <= 0:
        return []
    return [(round(slope / -start), round(1 - 1 / float(start), 3))]
