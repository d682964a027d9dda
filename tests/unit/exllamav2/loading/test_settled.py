"""What a load took, kept for the next plan."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")

from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import TIMEOUT, info_of, load, spec_of

pytestmark = TIMEOUT


def test_what_a_load_took_is_remembered_once_it_is_warm(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from neuron.engines.exllamav2.host import devices
    from neuron.engines.exllamav2.loading.load import settle
    from neuron.engines.exllamav2.loading.vram import DeviceUse, MeasuredMemory
    from neuron.engines.exllamav2.memory.measured import MeasurementFile

    loaded = load(library[0], spec_of(info_of(folder)))
    [need] = loaded.placed.needs
    took = need.total + (450 << 20)
    cold = MeasuredMemory((DeviceUse(0, took, need.passing // 4, 1),))
    warm = MeasuredMemory((DeviceUse(0, took, need.passing, 1),))
    monkeypatch.setattr(devices, "names", lambda: {0: "GPU"})
    at_load = loaded.memory
    for memory, kept in ((cold, None), (warm, [took])):
        loaded.memory = at_load
        monkeypatch.setattr(loaded.vram, "measure", lambda memory=memory: memory)
        assert settle(loaded, tmp_path).total == took
        assert loaded.memory is memory
        found = MeasurementFile(tmp_path).read()
        assert found.load(loaded.requirements.key(["GPU"]), 1) == kept
    assert MeasurementFile(tmp_path).read().context("GPU") == 450 << 20
