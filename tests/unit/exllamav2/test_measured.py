import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from neuron.engines.base import HostMemory, LoadSpec
from neuron.engines.exllamav2.host import devices
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.memory.measured import (
    FILE_NAME,
    MeasurementFile,
    load_key,
)
from neuron.engines.exllamav2.memory.plan import plan_load
from neuron.engines.exllamav2.memory.requirements import Requirements, requirements_of
from neuron.models.info import ModelInfo
from neuron.protocol.types import LoadPlan, LoadRequest
from tests.unit.exllamav2 import hollow

MIB = 1 << 20
GPU = "NVIDIA H200, driver 580.65"
LEVERS = Levers()


@pytest.fixture(autouse=True)
def _one_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "names", lambda: dict.fromkeys(range(2), GPU))


def planned(info: ModelInfo, state: Path, free: int = 80 << 30) -> LoadPlan:
    request = LoadRequest(model=info.id, slots=4, max_seq_len=512, cache_tokens=2048)
    return plan_load(
        "exllamav2", info, request, HostMemory(None, {0: free}), levers=LEVERS,
        state=state,
    )  # fmt: skip


def requirements(info: ModelInfo, plan: LoadPlan) -> Requirements:
    """What a worker makes of a plan."""
    assert plan.cache_tokens is not None
    spec = LoadSpec(info, 512, 4, "fp16", plan.cache_tokens, tuple(plan.devices), plan)
    return requirements_of(spec, LEVERS)


def test_the_next_plan_says_what_the_last_load_took(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m")
    before = planned(info, tmp_path)
    assert before.measured_bytes is None
    assert before.need_bytes is not None
    took = before.need_bytes + 100 * MIB
    key = requirements(info, before).key([GPU])
    MeasurementFile(tmp_path).add(key, [took], {})
    after = planned(info, tmp_path)
    assert (after.measured_bytes, after.need_bytes) == (took, took)
    assert after.device_bytes == {0: took}
    assert sum(after.parts.values()) == took
    assert after.parts["weights"] == before.parts["weights"]
    assert after.parts["context"] == before.parts["context"] + 100 * MIB


@pytest.mark.parametrize("less", [700 * MIB, 720 * MIB])
def test_parts_add_up_to_a_load_that_took_less(tmp_path: Path, less: int) -> None:
    info = hollow.write_llama(tmp_path / "m", hollow.BIG)
    before = planned(info, tmp_path)
    assert before.need_bytes is not None
    took = before.need_bytes - less
    MeasurementFile(tmp_path).add(requirements(info, before).key([GPU]), [took], {})
    after = planned(info, tmp_path)
    assert sum(after.parts.values()) == after.need_bytes == took
    assert min(after.parts.values()) >= 0
    assert after.parts["cache"] == before.parts["cache"]


def test_what_was_measured_decides_whether_it_fits(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m")
    before = planned(info, tmp_path)
    assert before.need_bytes is not None
    key = requirements(info, before).key([GPU])
    MeasurementFile(tmp_path).add(key, [before.need_bytes + 500 * MIB], {})
    after = planned(info, tmp_path, free=before.need_bytes + 400 * MIB)
    assert not after.fits
    assert "MiB of VRAM; free are" in (after.reason or "")


def test_other_loads_learn_what_a_context_takes(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m")
    file = MeasurementFile(tmp_path)
    for number, took in enumerate((400, 900, 420)):
        file.add(f"other {number}", [1], {GPU: took * MIB})
    assert planned(info, tmp_path).parts["context"] == 420 * MIB
    file.add("implausible", [1], {GPU: 1})
    assert file.read().context(GPU) == 420 * MIB
    assert file.read().context("another GPU") is None


def test_keys_tell_loads_apart(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m")
    same = hollow.write_llama(tmp_path / "moved")
    other = hollow.write_llama(tmp_path / "o", replace(hollow.SMALL, layers=2))
    load = requirements(info, planned(info, tmp_path))
    key = load.key([GPU])
    assert key == requirements(same, planned(same, tmp_path)).key([GPU])
    different = [
        requirements(other, planned(other, tmp_path)).key([GPU]),
        load.key([GPU, GPU]),
        replace(load, cache_tokens=4096).key([GPU]),
        replace(load, cache_mode="q8").key([GPU]),
        replace(load, device_embedding=False).key([GPU]),
    ]
    assert len({key, *different}) == 6


@pytest.mark.parametrize(
    "text", ["", "[]", '{"loads": {"k": "x"}}', '{"loads": {"k": [-1]}}', "{", "\0"]
)
def test_damaged_file_is_passed_over_and_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    file = MeasurementFile(tmp_path)
    assert file.read().loads == {}
    file.add("key", [5], {})
    assert file.read().load("key", 1) == [5]
    assert file.read().load("key", 2) is None


def test_only_so_much_is_kept(tmp_path: Path) -> None:
    file = MeasurementFile(tmp_path)
    loads = {f"old {number}": [1] for number in range(300)}
    contexts = {GPU: [100 * MIB] * 50}
    (tmp_path / FILE_NAME).write_text(
        json.dumps({"loads": loads, "contexts": contexts})
    )
    file.add("new", [2], {GPU: 200 * MIB})
    found = file.read()
    assert len(found.loads) == 256
    assert list(found.loads)[-1] == "new"
    assert len(found.contexts[GPU]) == 9


def test_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = MeasurementFile(tmp_path / "file" / "state")
    file.add("key", [1], {})
    assert file.read().loads == {}


def _add(folder: Path, number: int) -> None:
    MeasurementFile(folder).add(f"key {number}", [number], {})


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_add, args=(tmp_path, number)) for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(MeasurementFile(tmp_path).read().loads) == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "exllamav2-memory.json", "exllamav2-memory.lock",
    ]  # fmt: skip


def test_key_is_of_contents_and_not_of_their_order() -> None:
    assert load_key({"a": 1, "b": 2}) == load_key({"b": 2, "a": 1})
