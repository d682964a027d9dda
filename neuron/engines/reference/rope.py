"""Rotary position embedding: its frequencies, under each way to stretch a context.

Sources: RoFormer (arXiv 2104.09864), YaRN (arXiv 2309.00071), and for `llama3` the
frequency scaling published with Llama 3.1. Angles are kept as complex numbers: pair i
of a head, (x[i], x[i + head_dim / 2]), is turned by multiplying it as one number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["default", "linear", "llama3", "yarn"]
_KINDS: Final[tuple[Kind, ...]] = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions become angles."""

    theta: float = 10000.0
    kind: Kind = "default"
    factor: float = 1.0
    original_context: int = 0
    """Context before it was stretched; llama3 and yarn."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float = 1.0
    """Factor on both sine and cosine; yarn's attention factor."""

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float64]:
        """Radians per position of each pair of dimensions, [head_dim / 2]."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        plain: NDArray[np.float64] = self.theta**-exponents
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "llama3":
            return self._llama3(plain)
        if self.kind == "yarn":
            return self._yarn(plain, head_dim)
        return plain

    def table(self, positions: int, head_dim: int) -> NDArray[np.complex64]:
        """Turn of every pair at every position, [positions, head_dim / 2]."""
        steps = np.arange(positions, dtype=np.float64)[:, None]
        angles = steps * self.inverse_frequencies(head_dim)
        turns = self.magnitude * np.exp(1j * angles)
        narrow: NDArray[np.complex64] = turns.astype(np.complex64)
        return narrow

    def _llama3(self, plain: NDArray[np.float64]) -> NDArray[np.float64]:
        turns = self.original_context * plain / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        keep = np.clip((turns - self.low_freq_factor) / span, 0, 1)
        return (1 - keep) * plain / self.factor + keep * plain

    def _yarn(self, plain: NDArray[np.float64], head_dim: int) -> NDArray[np.float64]:
        low, high = (
            self._pair_turning(self.beta_fast, head_dim),
            self._pair_turning(self.beta_slow, head_dim),
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        span = high - low or 0.001
        stretch = np.clip((np.arange(head_dim // 2) - low) / span, 0, 1)
        mixed: NDArray[np.float64]
        mixed = plain / self.factor * stretch + plain * (1 - stretch)
        return mixed

    def _pair_turning(self, turns: float, head_dim: int) -> float:
        """Index of the pair that turns so many times over the original context."""
        ratio = self.original_context / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(self.theta))


def parse_rope(raw: Mapping[str, Any], context: int) -> Rope:
    """From a config.json in the old spelling (`rope_theta` and `rope_scaling`) or the
    new one (`rope_parameters`).

    Raises:
        ValueError: a type or value this engine does not know; the text names it.
    """
    key = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
    section = raw.get(key) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"{key} {section!r} is not a JSON object")
    merged = {"rope_theta": raw.get("rope_theta"), **section}
    partial = merged.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1))
    if partial not in (None, 1):
        raise ValueError(f"partial_rotary_factor {partial!r} is not 1")
    kind = merged.get("rope_type", merged.get("type", "default"))
    if kind not in _KINDS:
        raise ValueError(f"{key}: rope type {kind!r} is not one of {', '.join(_KINDS)}")
    number = _Numbers(key, merged)
    theta = number("rope_theta", 10000.0)
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, number("factor"))
    original = raw.get("original_max_position_embeddings") or context
    original = int(number("original_max_position_embeddings", original))
    if kind == "llama3":
        return _llama3(number, theta, original)
    return _yarn(number, theta, original, context)


class _Numbers:
    """Positive numbers of one section, by key."""

    def __init__(self, section: str, values: Mapping[str, Any]) -> None:
        self._section = section
        self.values = values

    def __call__(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        if value is None:
            value = default
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"{self._section}: {key} {value!r} is not a number > 0")
        return float(value)


def _llama3(number: _Numbers, theta: float, original: int) -> Rope:
    low, high = number("low_freq_factor"), number("high_freq_factor")
    if high <= low:
        raise ValueError(f"rope: high_freq_factor {high} is not above {low}")
    return Rope(
        theta,
        "llama3",
        number("factor"),
        original_context=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(number: _Numbers, theta: float, original: int, context: int) -> Rope:
    factor = number("factor", context / original)
    return Rope(
        theta,
        "yarn",
        factor,
        original_context=original,
        beta_fast=number("beta_fast", 32.0),
        beta_slow=number("beta_slow", 1.0),
        truncate=number.values.get("truncate", True) is not False,
        magnitude=_yarn_magnitude(number, factor),
    )


def _yarn_magnitude(number: _Numbers, factor: float) -> float:
    if number.values.get("attention_factor") is not None:
        return number("attention_factor")

    def scaled(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if number.values.get("mscale") and number.values.get("mscale_all_dim"):
        return scaled(number("mscale")) / scaled(number("mscale_all_dim"))
    return scaled(1)
