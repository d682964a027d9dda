"""When a model counts as idle, and for how long it may."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neuron.protocol.errors import ApiError, shutting_down
from neuron.protocol.types import Health, Model, ModelLoad, ModelState
from services.catalogue import Catalogue, ModelEntry
from services.fleet import idle
from services.fleet.idle import IdleModels
from services.fleet.state import FleetState
from services.schema import ModelAction, Operation, OperationState

READY = ModelState.READY


@dataclass
class Fleet:
    """A fleet whose neurons do as they are told, or not."""

    state: FleetState
    now: float = 1000.0
    obeys: bool = True
    refusal: ApiError | None = None
    unloads: list[ModelAction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.idle = IdleModels(self.state, self.unload, lambda: self.now)

    async def unload(self, action: ModelAction) -> Operation:
        if self.refusal is not None:
            raise self.refusal
        self.unloads.append(action)
        if not self.obeys:
            return Operation(state=OperationState.FAILED, error="it is stuck")
        assert action.node is not None
        self.has(action.model, ModelState.UNLOADED, node=action.node)
        return Operation(state=OperationState.DONE)

    def has(self, model: str, state: ModelState = READY, node: str = "a") -> None:
        if node not in self.state.nodes:
            self.state.add_node(node, f"http://{node}")
        known = self.state.nodes[node]
        known.models[model] = Model(id=model, state=state)
        self.state.answered(known, Health(models=[ModelLoad(id=model)]))

    def works(self, model: str, node: str = "a", **load: int) -> None:
        """What the neuron tells of the model."""
        told = ModelLoad.model_validate({"id": model, **load})
        self.state.answered(self.state.nodes[node], Health(models=[told]))

    @property
    def unloaded(self) -> list[str]:
        return [f"{action.model} on {action.node}" for action in self.unloads]

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.idle.run())
        await self.later(0)
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def later(self, seconds: float) -> None:
        """Let this time go by, and `run` look at it."""
        self.now += seconds
        await asyncio.sleep(0.03)


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(idle, "LOOK_S", 0.005)
    entries = [
        ModelEntry(id="m", ttl=60),
        ModelEntry(id="pinned", ttl=60, pinned=True),
        ModelEntry(id="free"),
    ]
    catalogue = Catalogue({e.id: e for e in entries}, Path("x"), found=True)
    return Fleet(FleetState(catalogue))


async def test_what_nobody_used_for_its_ttl_is_unloaded(fleet: Fleet) -> None:
    for model in ("m", "pinned", "free"):
        fleet.has(model)
    async with fleet.watched():
        await fleet.later(59)
        assert fleet.unloads == []
        await fleet.later(1)
        assert fleet.unloaded == ["m on a"]
        await fleet.later(1000)
    assert fleet.unloaded == ["m on a"]
    assert fleet.unloads[0].by == "its time to live of 60 s"


async def test_requests_keep_it_and_the_time_counts_from_their_end(
    fleet: Fleet,
) -> None:
    fleet.has("m")
    async with fleet.watched():
        request = fleet.state.requests.open("r", "m", "client", "/api/chat")
        await fleet.later(100)
        fleet.state.requests.close(request, failed=False)
        await fleet.later(59)
        assert fleet.idle.expires_at("m") == pytest.approx(time.time() + 1, abs=1)
        # One that began and ended between two looks counts, too.
        short = fleet.state.requests.open("s", "m", "client", "/api/chat")
        fleet.state.requests.close(short, failed=False)
        await fleet.later(59)
        assert fleet.unloads == []
        await fleet.later(60)
    assert fleet.unloaded == ["m on a"]


async def test_what_others_ask_of_the_neuron_keeps_it(fleet: Fleet) -> None:
    fleet.has("m")
    async with fleet.watched():
        fleet.works("m", in_flight=1)
        await fleet.later(100)
        fleet.works("m", queued=1)
        await fleet.later(100)
        fleet.works("m", steps=5)
        await fleet.later(59)
        fleet.works("m", steps=9)
        await fleet.later(59)
        assert fleet.unloads == []
        await fleet.later(60)
    assert fleet.unloaded == ["m on a"]


async def test_a_wish_holds_where_it_is_shorter_and_while_it_is_loaded(
    fleet: Fleet,
) -> None:
    for model in ("m", "pinned", "free"):
        fleet.has(model)
        fleet.idle.keep_alive(model, 10)
    assert fleet.idle.ttl("m") == fleet.idle.ttl("free") == 10
    assert fleet.idle.ttl("pinned") == math.inf
    fleet.idle.keep_alive("m", 1000)
    assert fleet.idle.ttl("m") == 60
    fleet.idle.keep_alive("m", math.inf)
    assert fleet.idle.ttl("m") == 60
    async with fleet.watched():
        await fleet.later(10)
        assert fleet.unloaded == ["free on a"]
        fleet.idle.keep_alive("pinned", 0)
        fleet.has("free")
        await fleet.later(10)
    assert fleet.unloaded == ["free on a"]
    assert fleet.idle.ttl("free") == math.inf


async def test_a_wish_for_nothing_waits_for_the_last_request(fleet: Fleet) -> None:
    fleet.has("free")
    request = fleet.state.requests.open("r", "free", "client", "/api/chat")
    fleet.idle.keep_alive("free", 0)
    async with fleet.watched():
        await fleet.later(5)
        assert fleet.unloads == []
        fleet.state.requests.close(request, failed=False)
        await fleet.later(0)
    assert fleet.unloaded == ["free on a"]


async def test_every_replica_goes_and_only_those_that_answer(fleet: Fleet) -> None:
    for node in ("a", "b", "c"):
        fleet.has("m", node=node)
    silent = fleet.state.nodes["c"]
    silent.seen_at = time.monotonic() - 60
    fleet.state.unreachable(silent, "no answer")
    async with fleet.watched():
        await fleet.later(60)
    assert fleet.unloaded == ["m on a", "m on b"]


async def test_an_unload_that_does_not_help_is_tried_again_later(fleet: Fleet) -> None:
    fleet.has("m")
    fleet.obeys = False
    async with fleet.watched():
        await fleet.later(60)
        await fleet.later(idle.AGAIN_S - 1)
        assert fleet.unloaded == ["m on a"]
        fleet.refusal = shutting_down()
        await fleet.later(1)
        fleet.refusal = None
        await fleet.later(idle.AGAIN_S)
    assert fleet.unloaded == ["m on a"] * 2


async def test_what_is_used_again_after_an_unload_goes_in_its_own_time(
    fleet: Fleet,
) -> None:
    fleet.has("m")
    async with fleet.watched():
        await fleet.later(60)
        fleet.has("m")
        request = fleet.state.requests.open("r", "m", "client", "/api/chat")
        fleet.state.requests.close(request, failed=False)
        fleet.idle.keep_alive("m", 1)
        await fleet.later(0)
        await fleet.later(1)
    assert fleet.unloaded == ["m on a"] * 2


async def test_what_is_asked_for_now_is_done_unless_it_is_in_use(fleet: Fleet) -> None:
    fleet.has("free")
    request = fleet.state.requests.open("r", "free", "client", "/api/chat")
    assert not await fleet.idle.unload_now("free", "somebody")
    assert fleet.unloads == []
    fleet.state.requests.close(request, failed=False)
    fleet.obeys = False
    with pytest.raises(ApiError, match="it is stuck"):
        await fleet.idle.unload_now("free", "somebody")
    fleet.obeys = True
    fleet.idle.keep_alive("free", 60)
    assert await fleet.idle.unload_now("free", "somebody")
    assert fleet.idle.ttl("free") == math.inf
    # There is nothing left to do.
    assert await fleet.idle.unload_now("free", "somebody")
    assert fleet.unloaded == ["free on a"] * 2


def test_what_stays_never_expires(fleet: Fleet) -> None:
    fleet.has("pinned")
    fleet.has("free")
    assert fleet.idle.expires_at("pinned") is None
    assert fleet.idle.expires_at("free") is None
