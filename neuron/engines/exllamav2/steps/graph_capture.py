"""Recording device work once and replaying it: the boundary to CUDA graphs."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

Step = Callable[[], object]
"""Launches work on tensors that stay where they are."""


class Recorder(Protocol):
    """Records steps, and makes the buffers that they read."""

    def buffer(self, numbers: int) -> Any:
        """int32 [numbers] on the device, zeroed."""

    def staging(self, numbers: int) -> Any:
        """int32 [numbers] on the host, to be copied from once; what copies of earlier
        ones still read is never given out again."""

    def record(self, step: Step) -> Callable[[], None]:
        """A function that repeats `step`."""

    def use_stream(self) -> None:
        """From here on, what this thread launches is in order with recorded work."""


class CudaRecorder:
    """CUDA graphs on one stream of one device, sharing one pool of memory."""

    def __init__(self, device: Any, stream: Any) -> None:
        """`stream` is the one that the library computes on."""
        import torch

        self._cuda = torch.cuda
        self._torch = torch
        self._device = device
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def buffer(self, numbers: int) -> Any:
        ints = self._torch.int32
        return self._torch.zeros(numbers, dtype=ints, device=self._device)

    def staging(self, numbers: int) -> Any:
        # torch keeps page-locked memory, and hands it out again once copies are done.
        ints = self._torch.int32
        return self._torch.empty(numbers, dtype=ints, pin_memory=True)

    def record(self, step: Step) -> Callable[[], None]:
        self.use_stream()
        # Once for real: kernels compile, and libraries allocate what they keep.
        step()
        self._stream.synchronize()
        graph = self._cuda.CUDAGraph()
        with _without_collection():
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                # An end that fails, too, would say no more than that something did.
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        repeat: Callable[[], None] = graph.replay
        return repeat

    def use_stream(self) -> None:
        self._cuda.set_stream(self._stream)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Let no garbage be freed meanwhile: page-locked memory that was used on the stream
    would record an event there, and another graph would be destroyed.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
