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

    cuda_graphs: bool = True
    """Decode steps are recorded and repeated as CUDA graphs: the CPU launches one thing
    a step instead of every kernel of every layer. Recording takes time at load, and
    VRAM for what was recorded. It needs all layers on one GPU, no adapters and few
    experts; the log says where a load goes without."""
    device_embedding: bool = True
    """The token embedding is on the GPU: no lookup and no copy in every step, for as
    much VRAM as the table has bytes. Off, it is in system memory, and no step is
    recorded."""
    device_sampling: bool = True
    """Tokens are chosen on the GPU and only they leave it, for some VRAM meanwhile.
    Off, all logits are copied to the CPU in every step, and chosen from there."""
    async_scheduling: bool = True
    """A recorded step is launched while the one before it still runs, on tokens that
    have not left the GPU, so that it never waits for the CPU. Not in steps with
    guesses or grammars. Needs `device_sampling`."""
    warmup: bool = True
    """Common shapes are computed before a model is ready, so that the first requests
    are not slow; loads take longer for it."""
    triton_gemm: bool = False
    """Recorded steps of 5 to 64 rows multiply on tensor cores. Not measured yet against
    the library's kernels, and so off."""
    speculate_up_to: int = 8
    """Requests that decode together with guesses, where a load has `draft` or `ngram`:
    each step may give several tokens, for more to compute and the draft's VRAM. Where
    many decode together, checking guesses costs more than they give. `0` is never."""
    prefill_chunk: int = 1024
    """Prompt tokens that are computed in one step while others decode, a multiple of
    256: what their next token waits for. More computes prompts sooner, fewer make the
    others wait less."""

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
