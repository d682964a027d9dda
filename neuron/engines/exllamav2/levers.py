"""Settings of this engine that an operator can switch, from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from neuron.engines.base import EngineError

PREFIX: Final = "NEURON_EXLLAMAV2_"
_SWITCH: Final = {
    "1": True, "true": True, "on": True, "yes": True,
    "0": False, "false": False, "off": False, "no": False,
}  # fmt: skip
_PAGE: Final = 256
"""Tokens in a page of exllamav2's cache."""


@dataclass(frozen=True, slots=True)
class Levers:
    """Each changes speed or memory and no result beyond rounding."""

    device_sampling: bool = True
    """Choose tokens where the logits are; off, they are copied to the CPU first."""
    cuda_graphs: bool = True
    """Repeat decode steps as recorded graphs, where the model allows for it."""
    device_embedding: bool = True
    """Keep the token embedding on the GPU instead of in system memory."""
    warmup: bool = True
    """Compute common shapes at load, so that the first requests are not slow."""
    triton_gemm: bool = False
    """Multiply for 5 to 64 rows on tensor cores, in recorded steps; not measured yet
    against the library's kernels, and so off."""
    speculate_up_to: int = 8
    """Sequences that decode at once with guesses by a draft model or by n-grams; for
    more of them, checking guesses costs more than it gives. 0: never."""
    prefill_chunk: int = 1024
    """Prompt tokens computed in one step while others decode: bounds what they wait."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Levers":
        """What `NEURON_EXLLAMAV2_<FIELD>` say; a field without one has its default.

        Raises:
            EngineError: a value is none of the field's; `param` is the variable.
        """
        found: dict[str, bool | int] = {}
        for field in fields(cls):
            name = PREFIX + field.name.upper()
            text = environment.get(name)
            if text is not None:
                parse = _switch if field.type is bool else _NUMBERS[field.name]
                found[field.name] = parse(name, text.strip().lower())
        return cls(**found)  # type: ignore[arg-type]


def _switch(name: str, text: str) -> bool:
    if text not in _SWITCH:
        raise _invalid(name, f"{text!r} is none of {', '.join(_SWITCH)}")
    return _SWITCH[text]


def _chunk(name: str, text: str) -> int:
    tokens = int(text) if _is_number(text) else 0
    if tokens < _PAGE or tokens % _PAGE:
        raise _invalid(name, f"{text!r} is no multiple of {_PAGE} from {_PAGE} on")
    return tokens


def _count(name: str, text: str) -> int:
    if not _is_number(text):
        raise _invalid(name, f"{text!r} is no whole number from 0 on")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _invalid(name: str, reason: str) -> EngineError:
    return EngineError(f"{name}: {reason}", code="invalid_value", param=name)


_NUMBERS: Final = {"speculate_up_to": _count, "prefill_chunk": _chunk}
