"""Nodes that fall silent, come back, restart, lie, and never were there."""

import asyncio

import pytest

from neuron.protocol.errors import ApiError
from neuron.protocol.types import Model, ModelState
from services.schema import NodeState
from tests.integration.gateway.gateways import Client, gateway_before, text_of, until
from tests.support import fake_neuron
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home


@pytest.fixture(autouse=True)
def _quick_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.fleet.watcher.POLL_S", 0.05)
    monkeypatch.setattr("services.fleet.client.ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr("services.fleet.fleet.TICK_S", 0.05)
    monkeypatch.setattr("services.fleet.node.STALE_AFTER_S", 0.8)
    monkeypatch.setattr("services.fleet.node.DOWN_AFTER_S", 1.6)


def state_of(client: Client, node: str) -> NodeState:
    return {view.name: view.state for view in client.snapshot().nodes}[node]


async def test_models_are_merged_over_all_neurons(home: Home) -> None:
    async with (
        FakeNeuron.with_models("both", "org/only-a").serving() as a,
        FakeNeuron.with_models("both", state=ModelState.UNLOADED).serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        listed = await client.get("/v1/models")
        assert listed["object"] == "list"
        both, only_a = listed["data"]
        assert (both["id"], both["object"], both["owned_by"]) == (
            "both",
            "model",
            "cortex",
        )
        assert isinstance(both["created"], int)
        assert both["loaded"] is True
        assert both["locations"] == [
            {"node": "a", "state": "ready"},
            {"node": "b", "state": "unloaded"},
        ]
        assert only_a["id"] == "org/only-a"
        assert await client.get("/v1/models/org/only-a") == only_a
        assert await client.get("/v1/models/org%2Fonly-a") == only_a
        error = (await client.get("/v1/models/x", 404))["error"]
        assert "available: both, org/only-a" in error["message"]


async def test_a_model_that_appears_on_a_disk_is_listed(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.set_state("m", ModelState.READY)  # the events come one by one from here
        await until(lambda: [m.id for m in client.snapshot().models] == ["m"])
        fake.put_on_disk("org/new")
        await until(lambda: len(client.snapshot().models) == 2)
        assert (await client.get("/v1/models/org/new"))["loaded"] is False


async def test_silence_is_debounced_and_recovered_from(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("m").serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.silent = True
        await until(lambda: state_of(client, "a") is NodeState.STALE)
        assert state_of(client, "b") is NodeState.READY
        await client.stream()
        assert (len(a.received), len(b.received)) == (0, 1)
        await until(lambda: state_of(client, "a") is NodeState.DOWN)
        (down,) = [n for n in client.snapshot().nodes if n.name == "a"]
        assert down.reason == "no answer to /health in time"
        assert (await client.get("/health"))["status"] == "degraded"
        assert 'cortex_node_up{node="a"} 0.0' in await client.metrics()
        a.silent = False
        await until(lambda: state_of(client, "a") is NodeState.READY)
        assert (await client.get("/health"))["status"] == "ok"
        told = [t for t in client.events() if t.startswith("a is")]
        assert [t.split(":")[0] for t in told] == [
            "a is ready",
            "a is silent",
            "a is down",
            "a is ready",
        ]


async def test_a_model_whose_only_node_is_down_is_unavailable_not_unknown(
    home: Home,
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.silent = True
        await until(lambda: state_of(client, "a") is NodeState.DOWN)
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "node_unavailable")
            assert "a is down" in error["message"]
            assert response.headers["Retry-After"] == "3"
        assert (await client.get("/v1/models"))["data"] == []


async def test_a_restarted_neuron_is_asked_again(home: Home) -> None:
    async with FakeNeuron.with_models("old").serving() as first:
        port = int(first.url.rpartition(":")[2])
        async with gateway_before(home, {"a": first}) as client:
            await first.stop()
            await until(lambda: state_of(client, "a") is NodeState.DOWN)
            async with FakeNeuron.with_models("new").serving(port):
                await until(
                    lambda: client.gateway.fleet.dispatcher.served_models() == ["new"]
                )
                assert text_of(await client.stream("new")) == "Once upon a time"


async def test_a_neuron_that_comes_late_is_waited_for(home: Home) -> None:
    async with FakeNeuron.with_models("m").serving() as late:
        late.silent = True
        neurons: dict[str, FakeNeuron | str] = {"a": late.url}
        async with gateway_before(home, neurons) as client:
            request = asyncio.ensure_future(client.stream())
            await asyncio.sleep(0.2)
            assert not request.done()
            late.silent = False
            assert text_of(await request) == "Once upon a time"


async def test_what_a_neuron_that_never_answered_may_have_is_no_404(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.fleet.dispatch.HEARING_S", 0.2)
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake, "b": "http://127.0.0.1:9"}) as client,
    ):
        async with client.chat(model="x") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "node_unavailable")
            assert "b has not answered yet" in error["message"]
        assert text_of(await client.stream("m")) == "Once upon a time"


async def test_a_change_is_seen_at_once_and_a_missed_one_soon(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.set_state("m", ModelState.RECOVERING, "killed by signal 9")
        await until(lambda: client.snapshot().models[0].state == "recovering")
        assert "m is being reloaded on a: killed by signal 9" in client.events()
        fake.set_state("m", ModelState.READY)
        await until(lambda: client.snapshot().models[0].state == "ready")
        # A change whose event is lost shows in the number that /health tells.
        fake.models["n"] = Model(id="n")
        fake.count_event()
        await until(lambda: len(client.snapshot().models) == 2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>", "no Health"),
        (b'{"uptime_s": "long"}', "uptime_s"),
        (b"[1]", "no Health"),
    ],
)
async def test_nonsense_is_a_problem_of_that_node_alone(
    home: Home, body: bytes, says: str
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as liar,
        FakeNeuron.with_models("m").serving() as fine,
        gateway_before(home, {"a": liar, "b": fine}) as client,
    ):
        liar.nonsense = body
        await until(lambda: state_of(client, "a") is NodeState.DOWN)
        (view,) = [n for n in client.snapshot().nodes if n.name == "a"]
        assert view.reason is not None
        assert says in view.reason
        assert state_of(client, "b") is NodeState.READY


async def test_the_gateway_shows_its_token_and_never_the_clients(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.token = "token-of-a"
        await until(lambda: state_of(client, "a") is NodeState.READY)
        assert text_of(await client.stream()) == "Once upon a time"
        fake.token = "another"
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (502, "upstream_failed")
        await until(lambda: state_of(client, "a") is NodeState.DOWN)


async def test_a_neuron_that_drains_gets_no_new_requests(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("m").serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.draining = True
        a.reply = fake_neuron.refuses(ApiError(503, "leaving", "shutting_down"))
        await until(lambda: state_of(client, "a") is NodeState.DRAINING)
        await client.stream()
        assert (len(a.received), len(b.received)) == (0, 1)
