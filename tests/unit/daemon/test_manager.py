"""Loads and unloads that meet each other, with real workers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pynvml
import pytest

from neuron.config import Limits
from neuron.daemon.catalogue import Catalogue
from neuron.daemon.events import EventLog
from neuron.daemon.hardware import Hardware
from neuron.daemon.instance import Instance
from neuron.daemon.manager import ModelManager
from neuron.daemon.nvml import Nvml
from neuron.engines.exllamav2.engine import ExLlamaV2Engine
from neuron.protocol.errors import ApiError
from neuron.protocol.types import EngineInfo, LoadRequest, ModelState, UnloadRequest
from tests.support.processes import Home
from tests.unit.daemon.fake_nvml import FakeNvml

MODEL = "tinystories-15m"


@pytest.fixture
async def manager(home: Home) -> AsyncIterator[ModelManager]:
    no_gpu = FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    hardware = Hardware(Nvml(no_gpu))
    catalogue = Catalogue([])
    await asyncio.gather(hardware.start(), catalogue.refresh())
    manager = ModelManager(
        catalogue, hardware, EventLog(), Limits(drain_s=1), home.root
    )
    yield manager
    await manager.shutdown()
    await hardware.close()


async def failed_load(manager: ModelManager) -> Instance:
    instance, _ = await manager.load(LoadRequest(model=MODEL))
    async with asyncio.timeout(30):
        while instance.pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    os.kill(instance.pid, signal.SIGKILL)
    with pytest.raises(ApiError, match="SIGKILL"):
        await instance.ready()
    assert instance.state is ModelState.FAILED
    return instance


async def test_unloading_what_failed_spares_the_load_that_replaces_it(
    manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = await failed_load(manager)
    lingers = asyncio.Event()
    planning, planned = asyncio.Event(), asyncio.Event()
    get = manager._catalogue.get

    async def slow_get(model_id: str) -> object:
        planning.set()
        await planned.wait()
        return await get(model_id)

    monkeypatch.setattr(failed.upstream, "idle", lambda *_: lingers.wait())
    monkeypatch.setattr(manager._catalogue, "get", slow_get)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        load = tasks.create_task(manager.load(LoadRequest(model=MODEL)))
        await planning.wait()
        tasks.create_task(manager.unload(UnloadRequest(model=MODEL)))
        while failed.state is not ModelState.UNLOADING:
            await failed.changed(30)
        planned.set()
        replacement, already = await load
        lingers.set()
    assert not already
    assert replacement is not failed
    await replacement.ready()
    assert manager.route(MODEL) is replacement


async def test_a_load_can_be_repeated_in_the_same_words(manager: ModelManager) -> None:
    asked = LoadRequest(model=MODEL, slots=2, cache_tokens=700, engine="reference")
    instance, already = await manager.load(asked)
    assert not already
    await instance.ready()
    planned = instance.plan.cache_tokens
    assert planned is not None
    assert planned > 700
    for same in (asked, LoadRequest(model=MODEL, cache_tokens=planned)):
        assert await manager.load(same) == (instance, True)
    with pytest.raises(ApiError, match=f"cache_tokens = {planned}, not 701") as other:
        await manager.load(LoadRequest(model=MODEL, cache_tokens=701))
    assert (other.value.status, other.value.param) == (409, "cache_tokens")


async def test_an_engine_that_cannot_run_here_is_told_before_memory(
    manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And can be planned for: what it would take may be why one asks."""
    lacking = EngineInfo(name="exllamav2", available=False, reason="no NVIDIA driver")
    monkeypatch.setattr(ExLlamaV2Engine, "probe", classmethod(lambda cls: lacking))
    request = LoadRequest(model=MODEL, engine="exllamav2")
    with pytest.raises(ApiError, match="on this host: no NVIDIA driver") as caught:
        await manager.load(request)
    assert (caught.value.status, caught.value.code) == (422, "engine_unavailable")
    plan = await manager.plan(request)
    assert not plan.fits
    assert plan.need_bytes
