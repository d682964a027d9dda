"""Ollama's API before fake neurons: what is listed, loaded, unloaded and refused."""

import asyncio
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from neuron.protocol.errors import ApiError
from neuron.protocol.types import Model, ModelState
from services import schema
from services.catalogue import ModelEntry
from services.keys import secret
from services.keys.file import KeySection
from tests.integration.gateway.gateways import Client, gateway_before, until
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home

COLD, READY = ModelState.UNLOADED, ModelState.READY
HI = [{"role": "user", "content": "hi"}]


async def lines(client: Client, path: str, **body: Any) -> list[dict[str, Any]]:
    """The objects of a stream, which begins with the first of them."""
    async with client.http.post(path, json={"model": "m", **body}) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/x-ndjson"
        return [orjson.loads(line) for line in (await response.read()).splitlines()]


async def ask(client: Client, path: str, status: int = 200, **body: Any) -> Any:
    return await client.post(path, status, **{"model": "m", **body})


async def running(client: Client) -> dict[str, Any]:
    """Model → what /api/ps says of it."""
    return {m["name"]: m for m in (await client.get("/api/ps"))["models"]}


def left(entry: dict[str, Any]) -> timedelta:
    until: datetime = datetime.fromisoformat(entry["expires_at"])
    return until - datetime.now(UTC)


def state_of(fake: FakeNeuron, model: str = "m") -> ModelState:
    return fake.models[model].state


async def test_a_chat_streams_objects_unless_told_otherwise(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        told = await lines(client, "/api/chat", messages=HI)
        words = [line["message"]["content"] for line in told]
        assert words == ["Once", " upon", " a time", ""]
        assert [line["done"] for line in told] == [False] * 3 + [True]
        assert told[-1]["done_reason"] == "stop"
        assert (told[-1]["prompt_eval_count"], told[-1]["eval_count"]) == (7, 3)
        told = await lines(client, "/api/generate", prompt="hi")
        assert [line["response"] for line in told] == ["Once", " upon", " a time", ""]
        whole = await ask(client, "/api/chat", messages=HI, stream=False)
        assert whole["message"] == {"role": "assistant", "content": "Once upon a time"}
        assert (whole["done"], whole["eval_count"]) == (True, 3)


async def test_latest_is_the_model_without_a_tag(home: Home) -> None:
    entries = (ModelEntry(id="m", aliases=("small", "odd:latest")),)
    async with (
        FakeNeuron.with_models("m", "n", "n:latest").serving() as fake,
        gateway_before(home, {"a": fake}, models=entries) as client,
    ):
        for asked, model in (
            ("m:latest", "m"),
            ("small:latest", "m"),
            ("odd:latest", "m"),
            ("n:latest", "n:latest"),
            ("n", "n"),
        ):
            body = {"model": asked, "messages": HI, "stream": False}
            async with client.http.post("/api/chat", json=body) as response:
                assert response.headers["X-Cortex-Model"] == model
                assert (await response.json())["model"] == asked
        refused = await ask(client, "/api/chat", 404, model="odd", messages=HI)
        assert "'odd'" in refused["error"]


async def test_what_has_no_effect_is_told_in_a_header(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        body = {"model": "m", "messages": HI, "options": {"num_ctx": 4096}}
        async with client.http.post(
            "/api/chat", json=body | {"think": True}
        ) as response:
            assert response.headers["X-Cortex-Warning"] == (
                "options.num_ctx: the context is as long as the model was loaded with;"
                " think: m does not think"
            )


async def test_models_are_listed_and_shown(home: Home) -> None:
    fake = FakeNeuron.with_models("m", "broken")
    fake.models["m"] = Model(
        id="m",
        state=READY,
        architecture="LlamaForCausalLM",
        format="exl2",
        bpw=4.0,
        parameters=8_030_000,
        context=2048,
        memory_mb=64,
        capabilities=["chat", "tools"],
    )
    fake.models["broken"].servable.ok = False
    entries = (ModelEntry(id="m", aliases=("small", "wild-*")),)
    async with (
        fake.serving(),
        gateway_before(home, {"a": fake}, models=entries) as client,
    ):
        listed = (await client.get("/api/tags"))["models"]
        assert [m["name"] for m in listed] == ["m", "small"]
        assert {m["digest"] for m in listed} == {listed[0]["digest"]}
        assert listed[0]["details"]["parameter_size"] == "8.0M"
        for asked in ({"model": "m"}, {"name": "m:latest"}, {"model": "wild-1"}):
            shown = await client.post("/api/show", 200, **asked)
            assert shown["capabilities"] == ["completion", "tools"]
            assert shown["model_info"]["llama.context_length"] == 2048
        (entry,) = (await running(client)).values()
        assert (entry["size"], entry["size_vram"]) == (64 << 20, 0)
        assert left(entry) > timedelta(days=365 * 100)
        await client.post("/api/show", 404, model="broken")
        await client.post("/api/show", 404, model="nobody")
        await client.post("/api/show", 400)
        version = await client.get("/api/version")
        assert version.keys() == {"version", "cortex"}


@pytest.mark.parametrize(
    ("method", "path", "instead"),
    [
        ("POST", "/api/embed", "embed"),
        ("POST", "/api/embeddings", "embed"),
        ("POST", "/api/pull", "models_dirs"),
        ("POST", "/api/push", "models_dirs"),
        ("POST", "/api/create", "neuron quantize"),
        ("POST", "/api/copy", "aliases"),
        ("DELETE", "/api/delete", "remove it there"),
    ],
)
async def test_what_there_is_not_is_refused_with_what_there_is(
    home: Home, method: str, path: str, instead: str
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
        client.http.request(method, path, json={"model": "m"}) as response,
    ):
        assert response.status == 501
        body = await response.json()
        assert body.keys() == {"error"}
        assert instead in body["error"]


# Cold models: NDJSON has no comments, so nothing is sent before there is an answer.


async def test_a_stream_of_a_cold_model_begins_when_it_is_loaded(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.replica_search.COMMENT_S", 0.02)
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        answer = asyncio.ensure_future(lines(client, "/api/chat", messages=HI))
        await until(lambda: bool(fake.loads))
        await asyncio.sleep(0.1)
        fake.load_gate.set()
        told = await answer
        assert told[0]["message"]["content"] == "Once"
        assert told[-1]["load_duration"] >= 100_000_000


async def test_a_load_that_fails_is_told_with_its_status(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.replica_search.COMMENT_S", 0.02)
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        fake.load_error = ApiError(500, "a tensor is truncated", "load_failed")
        body = {"model": "m", "messages": HI}
        answer = asyncio.ensure_future(client.http.post("/api/chat", json=body))
        await until(lambda: bool(fake.loads))
        await asyncio.sleep(0.1)
        fake.load_gate.set()
        async with await answer as response:
            assert response.status == 500
            error = (await response.json())["error"]
        assert "a tensor is truncated" in error


# Load, unload, keep_alive.


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/generate", {"response": ""}),
        ("/api/chat", {"message": {"role": "assistant", "content": ""}}),
    ],
)
async def test_an_empty_request_loads_and_with_no_time_to_live_unloads(
    home: Home, path: str, answer: dict[str, Any]
) -> None:
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        loaded = await ask(client, path, keep_alive="10m")
        del loaded["created_at"]
        ended = {"done": True, "done_reason": "load"}
        assert loaded == {"model": "m", **answer, **ended}
        assert state_of(fake) is READY
        entry = (await running(client))["m"]
        assert timedelta(minutes=9) < left(entry) <= timedelta(minutes=10)
        # Loading what is loaded changes nothing but its time.
        await ask(client, path, keep_alive=-1)
        assert left((await running(client))["m"]) > timedelta(days=365)
        assert len(fake.loads) == 1
        unloaded = await ask(client, path, keep_alive=0)
        assert unloaded["done_reason"] == "unload"
        assert state_of(fake) is COLD
        assert await running(client) == {}
        assert (await ask(client, path, keep_alive="0"))["done_reason"] == "unload"
        assert not fake.received
        assert "unload of m on a, asked for by 127.0.0.1" in " ".join(client.events())


async def test_a_load_is_told_of_as_any_request(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    entries = (ModelEntry(id="m", aliases=("small",)),)
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}, models=entries) as client,
    ):
        body = {"model": "small", "options": {"num_ctx": 4096}}
        async with client.http.post("/api/generate", json=body) as response:
            assert response.headers["X-Cortex-Model"] == "m"
            assert "options.num_ctx" in response.headers["X-Cortex-Warning"]
            assert (await response.json())["model"] == "small"
        for name, wrong in (("prompt", 0), ("stream", "no"), ("options", 1)):
            refused = await ask(client, "/api/generate", 400, **{name: wrong})
            assert refused["error"].startswith(f"{name}: should be")
            assert f"refused: 400 {name}: should be" in caplog.text
        async with client.http.post("/api/chat", data=b"{") as response:
            assert response.status == 400
        metrics = await client.metrics()
    for path, count in (("generate", 3), ("chat", 1)):
        counted = rf'cortex_requests_total{{.*"/api/{path}",status="400"}} {count}.0'
        assert re.search(counted, metrics)


async def test_a_pinned_model_is_not_unloaded_by_clients(home: Home) -> None:
    entries = (ModelEntry(id="m", pinned=True, ttl=1),)
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}, models=entries) as client,
    ):
        refused = await ask(client, "/api/generate", 409, keep_alive=0)
        assert "'m' is pinned" in refused["error"]
        await ask(client, "/api/chat", messages=HI, stream=False, keep_alive=0)
        assert left((await running(client))["m"]) > timedelta(days=365)
        assert state_of(fake) is READY


async def test_a_model_in_use_is_unloaded_after_its_last_request(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.fleet.idle.LOOK_S", 0.02)
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        done = asyncio.Event()
        fake.reply = gated(fake, done)
        answer = asyncio.ensure_future(lines(client, "/api/chat", messages=HI))
        await until(lambda: bool(fake.received))
        unloaded = await ask(client, "/api/generate", keep_alive=0)
        assert unloaded["done_reason"] == "unload"
        await asyncio.sleep(0.1)
        assert state_of(fake) is READY
        done.set()
        assert (await answer)[-1]["done"]
        await until(lambda: state_of(fake) is COLD)


async def test_a_model_that_an_operator_loads_is_unloaded_after_that(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.fleet.idle.LOOK_S", 0.02)
    async with (
        FakeNeuron.with_models("m", state=COLD).serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.load_gate.clear()
        await client.post(schema.LOAD, model="m", wait=False)
        await until(lambda: client.snapshot().models[0].state is ModelState.LOADING)
        unloaded = await ask(client, "/api/generate", keep_alive=0)
        assert unloaded["done_reason"] == "unload"
        assert state_of(fake) is ModelState.LOADING
        fake.load_gate.set()
        await until(lambda: state_of(fake) is COLD)


def gated(fake: FakeNeuron, done: asyncio.Event) -> Any:
    reply = fake.reply

    async def wait_and_reply(request: Any) -> Any:
        await done.wait()
        return await reply(request)

    return wait_and_reply


@pytest.mark.parametrize("stream", [True, False])
async def test_keep_alive_counts_from_the_end_of_the_answer(
    home: Home, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("services.fleet.idle.LOOK_S", 0.02)
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        body = {"model": "m", "messages": HI, "stream": stream, "keep_alive": "5m"}
        async with client.http.post("/api/chat", json=body) as response:
            await response.read()
        entry = (await running(client))["m"]
        assert timedelta(minutes=4) < left(entry) <= timedelta(minutes=5)
        await asyncio.sleep(0.1)
        assert state_of(fake) is READY
        async with client.http.post(
            "/api/chat", json=body | {"keep_alive": 0.05}
        ) as response:
            await response.read()
        await until(lambda: state_of(fake) is COLD)
        said = "unload of m on a, asked for by its time to live of 0.05 s"
        assert said in client.events()


async def test_the_configured_ttl_holds_without_any_wish(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.fleet.idle.LOOK_S", 0.02)
    entries = (ModelEntry(id="m", ttl=0.2),)
    async with (
        FakeNeuron.with_models("m", "n").serving() as fake,
        gateway_before(home, {"a": fake}, models=entries) as client,
    ):
        await until(lambda: state_of(fake) is COLD)
        assert state_of(fake, "n") is READY
        # The next request loads it again.
        assert (await lines(client, "/api/chat", messages=HI))[-1]["done"]
        assert len(fake.loads) == 1


# Keys.


async def test_a_key_sees_loads_and_unloads_its_own_models_alone(home: Home) -> None:
    shown = f"ck-alice-{'a' * 48}"
    key = KeySection(id="alice", name="Alice", hash=secret.hashed(shown), models=("m",))
    async with (
        FakeNeuron.with_models("m", "other").serving() as fake,
        gateway_before(home, {"a": fake}, keys=(key,)) as client,
    ):
        refused = await ask(client, "/api/chat", 401, messages=HI)
        assert refused.keys() == {"error"}
        client.http.headers["Authorization"] = f"Bearer {shown}"
        for path in ("/api/tags", "/api/ps"):
            models = (await client.get(path))["models"]
            assert [m["name"] for m in models] == ["m"]
        await client.post("/api/show", 404, model="other")
        await ask(client, "/api/chat", 403, model="other", messages=HI, keep_alive=0)
        for wish in (0, 60):
            await ask(client, "/api/generate", 403, model="other", keep_alive=wish)
            await ask(client, "/api/generate", keep_alive=wish)
        assert client.gateway.fleet.idle.expires_at("other") is None
        assert state_of(fake, "other") is READY
