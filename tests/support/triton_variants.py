"""Which variants of kernels Triton would compile for calls, without a GPU.

To be imported where triton is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import triton
from triton.backends.compiler import GPUTarget


class _Gpu:
    """What Triton asks of a device before it compiles for it."""

    def get_current_device(self) -> int:
        return 99  # no real one's: what is known of kernels is kept by device

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 89, 32)


@contextmanager
def noted() -> Iterator[set[str]]:
    """The set that calls inside add to; nothing is compiled or launched."""
    found: set[str] = set()

    def note(*, key: str, fn: object, **_: object) -> bool:
        found.add(f"{fn} {key}")
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.runtime.driver, "_active", _Gpu())
        patch.setattr(triton.knobs.runtime, "jit_cache_hook", note)
        yield found
