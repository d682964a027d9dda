"""Recording device work once and replaying it: the boundary to CUDA graphs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

Step = Callable[[], Any]
"""Launches work on tensors that stay where they are; returns one of them."""


class Recorder(Protocol):
    """Records steps, and makes the buffers that they read."""

    def buffer(self, numbers: int) -> tuple[Any, Any]:
        """int32 [numbers], once on the host and once on the device, zeroed."""

    def record(self, step: Step) -> tuple[Callable[[], None], Any]:
        """(a function that repeats `step`, the tensor that it writes)."""

    def stream(self) -> AbstractContextManager[object]:
        """What is launched inside runs in order with the recorded work."""


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

    def buffer(self, numbers: int) -> tuple[Any, Any]:
        zeros = self._torch.zeros
        ints = self._torch.int32
        host = zeros(numbers, dtype=ints, pin_memory=True)
        return host, zeros(numbers, dtype=ints, device=self._device)

    def record(self, step: Step) -> tuple[Callable[[], None], Any]:
        # Once for real: kernels are compiled, and libraries allocate what they keep.
        with self._cuda.stream(self._stream):
            step()
        self._stream.synchronize()
        graph = self._cuda.CUDAGraph()
        # The library sets its own stream in every call: the capture must be there too.
        with self._cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            capture_error_mode="thread_local",
        ):
            output = step()
        return graph.replay, output

    def stream(self) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = self._cuda.stream(self._stream)
        return context
