"""Loads that end before their time, and models that are taken off again."""

from pathlib import Path
from typing import Any

import pytest

from neuron.engines.base import EngineError, LoadCancelledError
from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import CpuMemory, Handles
from tests.unit.exllamav2.loading.support import (
    GIB,
    TIMEOUT,
    copied,
    info_of,
    live_bytes,
    load,
    spec_of,
)

pytestmark = TIMEOUT


@pytest.mark.parametrize("after", [0, 1, 20, 60])
def test_cancelled_load_leaves_nothing(
    folder: Path, library: tuple[Any, Handles], after: int
) -> None:
    backend, handles = library
    before = live_bytes()
    told: list[int] = []
    memory = CpuMemory([GIB])
    with pytest.raises(LoadCancelledError):
        load(
            backend, spec_of(info_of(folder)), vram=memory,
            progress=lambda *_: told.append(1),
            cancelled=lambda: len(told) >= after,
        )  # fmt: skip
    assert len(told) == after
    assert not handles.living
    assert memory.given_back
    assert live_bytes() - before < 1 << 20


def test_file_that_became_shorter_since_it_was_planned(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    info = info_of(copied(folder, tmp_path / "copy"))
    weights = next(info.path.glob("*.safetensors"))
    with weights.open("r+b") as stream:
        stream.truncate(weights.stat().st_size // 2)
    with pytest.raises(EngineError, match="truncated") as caught:
        load(library[0], spec_of(info))
    assert caught.value.param == "model"


@pytest.mark.parametrize("failing", ["wait", "_fill"])
def test_failure_on_the_way_leaves_nothing(
    folder: Path, library: tuple[Any, Handles], monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:  # fmt: skip
    from neuron.engines.exllamav2.loading.staging import Staging

    backend, handles = library
    before = live_bytes()
    calls = []
    theirs = getattr(Staging, failing)

    def fail(*arguments: Any) -> Any:
        calls.append(failing)
        if len(calls) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return theirs(*arguments)

    monkeypatch.setattr(Staging, failing, fail)
    with pytest.raises(EngineError) as caught:
        load(backend, spec_of(info_of(folder)))
    expected = "out_of_memory" if failing == "wait" else "load_failed"
    assert caught.value.code == expected
    assert "out of memory" in str(caught.value)
    assert not handles.living
    assert live_bytes() - before < 1 << 20


def test_failure_is_told_where_nothing_can_be_freed_after_it(
    folder: Path, library: tuple[Any, Handles], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuron.engines.exllamav2.loading.staging import Staging

    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    memory = CpuMemory([GIB])

    def fail(*_: object) -> None:
        monkeypatch.setattr(memory, "give_back", fail)
        raise lost

    monkeypatch.setattr(Staging, "wait", fail)
    with pytest.raises(EngineError, match="illegal memory access") as caught:
        load(library[0], spec_of(info_of(folder)), vram=memory)
    assert caught.value.code == "load_failed"


def test_load_that_does_not_fit_is_refused_in_numbers(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    backend, handles = library
    with pytest.raises(EngineError, match=r"needs \d+ MiB .* free are 4 MiB") as caught:
        load(backend, spec_of(info_of(folder)), vram=CpuMemory([100 << 20]))
    assert (caught.value.code, caught.value.retryable) == ("out_of_memory", True)
    assert not handles.living


def test_freed_model_leaves_nothing(folder: Path, library: tuple[Any, Handles]) -> None:
    from neuron.engines.exllamav2.loading.load import free

    backend, handles = library
    before = live_bytes()
    loaded = load(backend, spec_of(info_of(folder)))
    assert live_bytes() - before > info_of(folder).weight_bytes
    assert free(loaded) == 0  # of the stand-in's devices
    assert not handles.living
    assert live_bytes() - before < 1 << 20
