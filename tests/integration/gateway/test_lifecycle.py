"""Cold loads, failovers of loads, operators' loads, unloads and pins."""

import asyncio
import tomllib
from typing import Any

import pytest

from neuron.protocol.errors import ApiError
from neuron.protocol.types import LoadOptions, Model, ModelState
from services import schema
from services.catalogue import ModelEntry
from services.schema import OperationState
from tests.integration.gateway.gateways import gateway_before, text_of, until
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home

COLD = ModelState.UNLOADED


async def test_clients_of_a_cold_model_cause_one_load_and_see_comments(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.replica_search.COMMENT_S", 0.05)
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        requests = [asyncio.ensure_future(client.stream()) for _ in range(5)]
        await until(lambda: len(client.snapshot().requests) == 5)
        assert {r.phase for r in client.snapshot().requests} == {"loading"}
        await until(lambda: client.snapshot().models[0].state is ModelState.LOADING)
        await asyncio.sleep(0.3)
        fake.load_gate.set()
        for events in await asyncio.gather(*requests):
            assert text_of(events) == "Once upon a time"
            assert events[-1] == "[DONE]"
            assert ": reading m on a: 1/2" in events
        assert [load.model for load in fake.loads] == ["m"]
        (operation,) = client.snapshot().operations
        assert (operation.kind, operation.by) == ("load", "a request")
        assert operation.state is OperationState.DONE
        assert "m is loading on a" in client.events()
        assert "m is ready on a" in client.events()
        text = await client.metrics()
        labels = 'model="m",node="a"'
        assert f'cortex_loads_total{{{labels},result="done"}} 1.0' in text
        assert f"cortex_load_duration_seconds_count{{{labels}}} 1.0" in text


async def test_a_client_that_gives_up_does_not_end_the_load(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        impatient = asyncio.ensure_future(client.stream())
        patient = asyncio.ensure_future(client.stream())
        await until(lambda: bool(fake.loads))
        impatient.cancel()
        await until(lambda: len(client.snapshot().requests) == 1)
        fake.load_gate.set()
        assert text_of(await patient) == "Once upon a time"


async def test_a_failed_load_is_an_event_in_a_stream_that_is_open(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.replica_search.COMMENT_S", 0.05)
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        fake.load_error = ApiError(500, "a tensor is truncated", "load_failed")
        request = asyncio.ensure_future(client.stream())
        await until(lambda: bool(fake.loads))
        await asyncio.sleep(0.1)
        fake.load_gate.set()
        events = await request
        assert events[-1]["error"]["message"] == "a tensor is truncated"
        assert "[DONE]" not in events


async def test_a_failed_load_is_a_status_where_nothing_was_sent(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_error = ApiError(500, "a tensor is truncated", "load_failed")
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (500, "load_failed")
        # From here on it has failed; only an operator tries again.
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "model_failed")
            assert "a tensor is truncated" in error["message"]
        assert len(fake.loads) == 1
        fake.load_error = None
        operation = await client.post(schema.LOAD, model="m")
        assert operation["state"] == "done"
        assert text_of(await client.stream()) == "Once upon a time"


async def test_a_load_that_was_called_off_may_be_tried_again(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=ModelState.UNLOADED).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_error = ApiError(409, "it is being unloaded", "model_unloading")
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "model_unloading")
            assert response.headers["Retry-After"]


async def test_a_load_that_is_refused_is_not_the_clients_fault(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_refusal = ApiError(422, "slots: at most 4", "bad_slots")
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "bad_slots")
            assert error["message"] == "'m' cannot be loaded: slots: at most 4"
        operation = await client.post(schema.LOAD, model="m")
        assert operation["error"] == "slots: at most 4"


async def test_a_node_that_goes_away_during_a_load(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as a,
        FakeNeuron.with_models("m", state=COLD).serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.available_bytes *= 2
        a.load_gate.clear()
        request = asyncio.ensure_future(client.stream())
        await until(lambda: bool(a.loads))
        await a.stop()
        assert text_of(await request) == "Once upon a time"
        assert len(b.loads) == 1


async def test_an_operators_own_numbers_are_not_lost_in_a_load_that_runs(
    home: Home,
) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        await client.post(schema.LOAD, model="m", wait=False)
        operation = await client.post(schema.LOAD, model="m", wait=False, slots=2)
        fake.load_gate.set()
        await until(lambda: all(o.finished_at for o in client.snapshot().operations))
        path = schema.OPERATION.format(id=operation["id"])
        assert (await client.get(path))["state"] == "done"
        assert [load.slots for load in fake.loads] == [None, 2]


async def test_who_does_not_stream_waits_up_to_the_limit(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}, load_timeout_s=0.2) as client,
    ):
        fake.load_gate.clear()
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "model_loading")
            assert "Retry-After" in response.headers


async def test_a_cold_model_goes_where_its_plan_fits(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as full,
        FakeNeuron.with_models("m", state=COLD).serving() as roomy,
        gateway_before(home, {"a": full, "b": roomy}) as client,
    ):
        full.available_bytes = 0
        await client.stream()
        assert (len(full.loads), len(roomy.loads)) == (0, 1)


async def test_the_catalogue_says_where_and_how(home: Home) -> None:
    options: dict[str, Any] = {
        "draft": "d",
        "draft_tokens": 5,
        "ngram": False,
        "tensor_parallel": True,
        "rope_scale": 2.0,
        "rope_alpha": 3.0,
        "yarn_factor": 4.0,
        "loras": ({"path": "tone", "scale": 0.5},),
    }
    assert options.keys() == LoadOptions.model_fields.keys()
    entry = ModelEntry(id="m", place_on=("b", "c"), max_seq_len=64, slots=3, **options)
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as a,
        FakeNeuron.with_models("m", state=COLD).serving() as b,
        FakeNeuron.with_models("m", state=COLD).serving() as c,
        gateway_before(home, {"a": a, "b": b, "c": c}, models=(entry,)) as client,
    ):
        await client.stream()
        operation = await client.post(schema.LOAD, model="m", node="c", slots=2)
        assert operation["state"] == "done"
        assert a.loads == a.plans == []
        asked = [*b.plans, *c.plans, *b.loads, *c.loads]
        assert [load.slots for load in asked] == [3, 3, 3, 2]
        for load in asked:
            assert load.max_seq_len == 64
            assert load.model_dump(include=set(options)) == options


async def test_a_node_without_room_hands_the_load_on(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as a,
        FakeNeuron.with_models("m", state=COLD).serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        a.available_bytes *= 2
        a.load_error = ApiError(507, "it does not fit", "insufficient_memory")
        assert text_of(await client.stream()) == "Once upon a time"
        assert (len(a.loads), len(b.loads)) == (1, 1)


async def test_recovering_is_waited_for_and_no_second_copy_is_made(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=ModelState.RECOVERING).serving() as a,
        FakeNeuron.with_models("m", state=COLD).serving() as b,
        gateway_before(home, {"a": a, "b": b}) as client,
    ):
        request = asyncio.ensure_future(client.stream())
        await until(lambda: bool(client.snapshot().requests))
        await asyncio.sleep(0.1)
        a.set_state("m", ModelState.READY)
        assert text_of(await request) == "Once upon a time"
        assert b.loads == []


async def test_operators_load_and_unload_and_nothing_is_done_twice(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        first = await client.post(schema.LOAD, model="m", wait=False, by="ann")
        second = await client.post(schema.LOAD, model="m", wait=False, by="bob")
        assert first["state"] == second["state"] == "running"
        assert first["by"] == "ann from 127.0.0.1"
        fake.load_gate.set()
        path = schema.OPERATION.format(id=second["id"])
        await until(lambda: client.snapshot().models[0].state is ModelState.READY)
        await until(
            lambda: (
                {o.state for o in client.snapshot().operations} == {OperationState.DONE}
            )
        )
        assert (await client.get(path))["state"] == "done"
        assert len(fake.loads) == 1
        unload = await client.post(schema.UNLOAD, model="m", drain_s=0)
        assert (unload["state"], unload["freed_bytes"]) == ("done", 1000)
        assert client.snapshot().models[0].state is COLD


async def test_a_load_that_fails_is_a_failed_operation(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_error = ApiError(507, "it needs 9 GB", "insufficient_memory")
        operation = await client.post(schema.LOAD, model="m", node="a")
        assert (operation["state"], operation["error"]) == ("failed", "it needs 9 GB")
        assert "load of m failed: it needs 9 GB" in client.events()


async def test_what_does_not_exist_is_named(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        error = (await client.post(schema.LOAD, 404, model="x"))["error"]
        assert error["code"] == "model_not_found"
        assert "available: m" in error["message"]
        error = (await client.post(schema.LOAD, 404, model="m", node="x"))["error"]
        assert error["code"] == "node_not_found"
        error = (await client.post(schema.LOAD, 422, node="x"))["error"]
        assert (error["code"], error["param"]) == ("invalid_request_body", "model")
        error = (await client.post(schema.UNLOAD, 422, model="m", drain_s=-1))["error"]
        assert error["param"] == "drain_s"
        path = schema.OPERATION.format(id="op-x")
        assert (await client.get(path, 404))["error"]["code"] == "operation_not_found"


async def test_pins_are_kept_in_the_catalogue(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        file = home.root / "models.toml"
        operation = await client.post(schema.PIN, model="m", by="ann")
        assert operation["state"] == "done"
        assert tomllib.loads(file.read_text())["models"] == [
            {"id": "m", "pinned": True}
        ]
        assert client.snapshot().models[0].pinned
        assert "pin of m, asked for by ann from 127.0.0.1" in client.events()
        await client.post(schema.UNPIN, model="m")
        assert not tomllib.loads(file.read_text())["models"][0]["pinned"]
        assert not client.snapshot().models[0].pinned
        file.write_text("models = 3")
        operation = await client.post(schema.PIN, model="m")
        assert operation["state"] == "failed"
        assert "models.toml" in operation["error"]
        assert not client.snapshot().models[0].pinned


async def test_a_load_that_lies_is_not_believed_for_ever(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.loads_to = COLD
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "load_failed")


async def test_a_model_that_no_node_may_load(home: Home) -> None:
    broken = Model(id="m")
    broken.servable.ok, broken.servable.reason = False, "no engine reads it"
    async with (
        FakeNeuron({"m": broken}).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        assert (await client.get("/v1/models"))["data"] == []
        async with client.chat() as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "model_not_servable")
            assert "no engine reads it" in error["message"]
        operation = await client.post(schema.LOAD, model="m")
        assert operation["state"] == "failed"
        assert "no engine reads it" in operation["error"], "operators are told too"
