"""What a load takes is what the plan says, and all of it comes back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from neuron.engines.base import Engine, EngineError, LoadCancelledError
from tests.gpu import outcomes
from tests.gpu.loads import planned, used_vram
from tests.gpu.prompts import prompt_of
from tests.gpu.results import read_findings
from tests.unit.reference.support import generate, request

LOADS = 20
_MIB = 1 << 20
_PLANNED_WITHIN = 0.03
_CONTEXT_MIB = 256
"""By how much the first plan may be off with CUDA's context, before any load told."""


@pytest.mark.timeout(120)
def test_twenty_loads_leave_nothing(
    engine_class: type[Engine], tiny: Callable[..., Path]
) -> None:
    """What CUDA itself keeps is there after the first of them."""
    import torch

    seen = []
    for _ in range(LOADS):
        _, spec = planned(engine_class, tiny(), slots=4, cache_tokens=4096)
        engine = engine_class()
        engine.load(spec, lambda *_: None, lambda: False)
        assert generate(engine, request("a", prompt_of(300), 4))["a"].tokens
        engine.unload()
        torch.cuda.synchronize()
        allocated = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        seen.append((*allocated, used_vram()[spec.devices[0]]))
    assert set(seen[1:]) == {seen[1]}


def test_a_cancelled_load_leaves_nothing(
    engine_class: type[Engine], large: Path
) -> None:
    import torch

    _, spec = planned(engine_class, large, slots=4, cache_tokens=4096)
    before = torch.cuda.memory_allocated()
    seen: list[tuple[int, int]] = []
    engine = engine_class()
    with pytest.raises(LoadCancelledError):
        engine.load(
            spec,
            lambda _, done, total: seen.append((done, total)),
            lambda: len(seen) >= 20,
        )
    done, total = seen[-1]
    assert 0 < done < total
    assert torch.cuda.memory_allocated() == before
    assert not engine.has_work()


def test_a_load_that_does_not_fit_is_refused_with_numbers(
    engine_class: type[Engine], tiny: Callable[..., Path]
) -> None:
    import torch

    plan, spec = planned(engine_class, tiny(), cache_tokens=1 << 40)
    assert not plan.fits
    assert plan.need_bytes is not None
    assert plan.available_bytes is not None
    assert plan.need_bytes > plan.available_bytes
    assert f"needs {plan.need_bytes // _MIB} MiB" in str(plan.reason)
    before = torch.cuda.memory_allocated()
    _, smaller = planned(engine_class, tiny())
    spec = replace(spec, devices=smaller.devices)
    with pytest.raises(EngineError, match=r"needs \d+ MiB .* free are \d+ MiB") as info:
        engine_class().load(spec, lambda *_: None, lambda: False)
    assert info.value.code == "out_of_memory"
    assert torch.cuda.memory_allocated() == before


def test_weights_come_about_as_fast_as_disk_and_bus_allow(
    engine_class: type[Engine],
    large: Path,
    record_property: Callable[[str, object], None],
) -> None:
    from neuron.engines.exllamav2.backend import load_backend
    from neuron.engines.exllamav2.loading import load as loading
    from tests.gpu.bench.loading import load_speed

    _, spec = planned(engine_class, large, slots=1, cache_tokens=512)
    loading.prepare_devices(spec)
    backend = load_backend()
    made = loading.load_model(backend, spec, lambda *_: None, lambda: False)
    speed = load_speed(made.transfer, large.glob("*.safetensors"), "cuda:0")
    loading.free(made)
    record_property("gb_per_s", speed.loaded / 1e9)
    record_property("share_of_disk", speed.share_of_disk)
    record_property("share_of_pcie", speed.share_of_pcie)
    assert max(speed.share_of_disk, speed.share_of_pcie) > 0.5


def test_plans_are_right(
    large: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In a process of its own, where nothing else has taken memory."""
    run = os.environ.get(outcomes.FILE)
    out = (Path(run).parent if run else tmp_path) / "memory.json"
    command = [sys.executable, "-m", "tests.gpu.bench", "memory", str(out), str(large)]
    environ = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = read_findings(out).memory
    assert len(found) == 2
    for index, each in enumerate(found):
        error = each.planned_mib - each.measured_mib
        record_property(f"{each.cache_mode}_error", error / each.measured_mib)
        unknown = 0 if index else _CONTEXT_MIB
        assert abs(error) <= _PLANNED_WITHIN * each.measured_mib + unknown, each
    learned = json.loads(next(tmp_path.rglob("exllamav2-memory.json")).read_text())
    assert len(learned["loads"]) == 2
