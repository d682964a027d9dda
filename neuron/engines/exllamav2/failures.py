"""How far a failure reaches: one request, the generator, or the process.

A request's own failure is an EngineError, handled where it arises. What the library
raises in a step leaves its page table in doubt, and its generator is made anew. A CUDA
error is sticky: every later call in the process fails with it, and only a new process
has a working context.
"""

import re
from typing import Final

from neuron.engines.base import EngineError

_STICKY: Final = re.compile(
    r"CUDA (driver )?error|Triton Error \[CUDA\]|CUBLAS_STATUS|CUDNN_STATUS"
    r"|CUSOLVER_STATUS|NCCL error|device-side assert"
)
_STICKY_TYPES: Final = frozenset({"AcceleratorError"})
_MEMORY_TYPES: Final = frozenset({"OutOfMemoryError"})


class NotFiniteError(EngineError):
    """The weights make no sense of one request's tokens."""

    def __init__(self) -> None:
        super().__init__("the model's output is not finite", code="engine_error")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no memory left; the context is still good."""
    return _is_torch(error, _MEMORY_TYPES)


def is_sticky(error: BaseException) -> bool:
    """Whether the CUDA context is lost, and the process with it."""
    if is_out_of_memory(error):
        return False
    if _is_torch(error, _STICKY_TYPES):
        return True
    return isinstance(error, RuntimeError) and bool(_STICKY.search(str(error)))


def fatal(error: BaseException) -> EngineError:
    """The error that makes the process be replaced."""
    return EngineError(
        f"the engine cannot go on in this process: {error}",
        code="engine_failed",
        retryable=True,
        fatal=True,
    )


def interrupted(error: BaseException) -> EngineError:
    """What a request is told that had output already when the generator failed."""
    code = "out_of_memory" if is_out_of_memory(error) else "engine_error"
    return EngineError(
        f"the engine failed while it computed this answer: {error}",
        code=code,
        retryable=True,
    )


def _is_torch(error: BaseException, names: frozenset[str]) -> bool:
    """Whether a class of that name from torch is among the error's classes.

    By name, since not every version of torch has each.
    """
    return any(
        cls.__name__ in names and cls.__module__.partition(".")[0] == "torch"
        for cls in type(error).__mro__
    )
