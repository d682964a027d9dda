"""What is asked of CUDA to record a step, told by what stands in for it."""

import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch")

import torch

from neuron.engines.exllamav2.steps.graph_capture import CudaRecorder

pytestmark = pytest.mark.cuda_stack


class Stream:
    def synchronize(self) -> None:
        pass


class Graph:
    """Remembers whether it is recording; its end fails after a step that failed."""

    recording = False
    broken = False

    def capture_begin(self, *, pool: int, capture_error_mode: str) -> None:
        assert (pool, capture_error_mode) == (7, "thread_local")
        Graph.recording = True

    def capture_end(self) -> None:
        Graph.recording = False
        if Graph.broken:
            raise RuntimeError("CUDA error: a previous error during capture")

    def replay(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> CudaRecorder:
    monkeypatch.setattr(Graph, "broken", False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 7)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda _: None)
    return CudaRecorder(torch.device("cuda", 0), Stream())


def step_of(calls: list[Any], then: Callable[[], None]) -> Callable[[], None]:
    def step() -> None:
        calls.append((Graph.recording, gc.isenabled()))
        if Graph.recording:
            then()

    return step


def test_a_step_is_done_once_before_it_is_recorded(recorder: CudaRecorder) -> None:
    calls: list[Any] = []
    recorder.record(step_of(calls, lambda: None))
    assert calls == [(False, True), (True, False)]  # and nothing is freed meanwhile
    assert not Graph.recording
    assert gc.isenabled()


@pytest.mark.parametrize("end_fails", [False, True])
def test_a_step_that_fails_tells_why_itself(
    recorder: CudaRecorder, end_fails: bool
) -> None:
    """The end of the recording knows no more than that something went wrong."""

    def fail() -> None:
        Graph.broken = end_fails
        raise RuntimeError("CUDA error: operation not permitted")

    with pytest.raises(RuntimeError, match="operation not permitted"):
        recorder.record(step_of([], fail))
    assert not Graph.recording
    assert gc.isenabled()
