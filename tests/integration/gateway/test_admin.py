"""The admin API's stream of what happens, its guard, and errors on every path."""

import asyncio
import socket
from itertools import pairwise

import aiohttp
import orjson
import pytest

from neuron.protocol.types import ModelState
from services import schema
from services.schema import FleetDelta, FleetEvent, FleetSnapshot
from tests.integration.gateway.gateways import EventReader, gateway_before, until
from tests.support import fake_neuron
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home


async def test_snapshot_then_deltas_then_events(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
        client.http.get(schema.EVENTS) as stream,
    ):
        assert stream.content_type == "text/event-stream"
        reader = EventReader(stream)
        first = await reader.next("snapshot")
        snapshot = FleetSnapshot.model_validate_json(first.data)
        assert snapshot.gateway.url == client.gateway.url
        assert [(n.name, n.state) for n in snapshot.nodes] == [("a", "ready")]
        assert snapshot.models[0].state is ModelState.READY
        fake.set_state("m", ModelState.UNLOADING)
        told = await reader.next("event")
        event = FleetEvent.model_validate_json(told.data)
        assert event.text == "m is unloading from a"
        assert told.id == str(event.seq)
        delta = FleetDelta()
        while not delta.models:
            told = await reader.next("delta")
            delta = FleetDelta.model_validate_json(told.data)
        assert delta.models[0].state is ModelState.UNLOADING
        assert delta.seq > snapshot.seq


async def test_a_stream_is_taken_up_where_it_broke(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        seen = client.gateway.fleet.state.events.seq
        fake.set_state("m", ModelState.UNLOADING)
        fake.set_state("m", ModelState.UNLOADED)
        await until(lambda: client.gateway.fleet.state.events.seq == seen + 2)
        headers = {"Last-Event-ID": str(seen)}
        async with client.http.get(schema.EVENTS, headers=headers) as stream:
            reader = EventReader(stream)
            events = [await reader.next("event") for _ in range(2)]
        texts = [FleetEvent.model_validate_json(event.data).text for event in events]
        assert texts == ["m is unloading from a", "m is unloaded from a"]


async def test_deltas_come_at_most_four_times_a_second(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        fake.reply = fake_neuron.endless(pace_s=0.002)
        request = asyncio.ensure_future(client.stream())
        await until(lambda: bool(client.snapshot().requests))
        async with client.http.get(schema.EVENTS) as stream:
            reader = EventReader(stream)
            tokens: list[int] = []
            times: list[float] = []
            while len(tokens) < 4:
                event = await reader.next("delta")
                delta = FleetDelta.model_validate_json(event.data)
                tokens += [view.tokens for view in delta.requests]
                times.append(delta.time)
        request.cancel()
        assert tokens == sorted(set(tokens))
        gaps = [b - a for a, b in pairwise(times)]
        assert min(gaps) > 0.2


async def test_subscribers_that_leave_leave_nothing(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        before = len(asyncio.all_tasks())
        for _ in range(3):
            async with client.http.get(schema.EVENTS) as stream:
                await EventReader(stream).next("snapshot")
        await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_the_unix_socket_serves_the_same_without_a_guard(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        path = str(home.root / "run" / "gateway.sock")
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as local,
            local.get(f"http://cortex{schema.FLEET}") as response,
        ):
            snapshot = FleetSnapshot.model_validate_json(await response.read())
            assert snapshot.gateway.pid == client.snapshot().gateway.pid
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as local,
            local.post(f"http://cortex{schema.PIN}", data=b'{"model":"m"}') as response,
        ):
            operation = await response.json()
            assert (operation["state"], operation["by"]) == (
                "done",
                "an operator from local",
            )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:31313"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:31313"}, 200),
        ({"Host": "[::1]:31313"}, 200),
    ],
)
async def test_web_pages_are_kept_away(
    home: Home, headers: dict[str, str], status: int
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        sent = {"Content-Type": "application/json"} | headers
        body = orjson.dumps({"model": "m"})
        async with client.http.post(schema.PIN, data=body, headers=sent) as response:
            answer = await response.json()
            assert response.status == status, answer
        assert client.snapshot().models[0].pinned is (status == 200)
        # What is read is guarded against pages too, but for the type of the body.
        expected = 200 if status == 415 else status
        async with client.http.get(schema.FLEET, headers=headers) as response:
            assert response.status == expected
        # Models are told to whoever comes by any name.
        async with client.http.get("/v1/models", headers=headers) as response:
            assert response.status == (403 if "Origin" in headers else 200)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/admin/v1/fleet", 415, "unsupported_media_type"),
        ("HEAD", "/admin/v1/events", 405, "method_not_allowed"),
        ("GET", "/admin/v1/operations/x", 404, "operation_not_found"),
    ],
)
async def test_every_error_is_in_the_envelope(
    home: Home, method: str, path: str, status: int, code: str
) -> None:
    async with (
        gateway_before(home, {}) as client,
        client.http.request(method, path) as response,
    ):
        assert response.status == status
        assert response.headers["X-Request-Id"]
        if method != "HEAD":
            error = (await response.json())["error"]
            assert error["code"] == code
            assert error["message"]
        assert ("Allow" in response.headers) is (status == 405)


@pytest.mark.parametrize("path", ["/v1/completions", schema.LOAD])
async def test_a_body_that_is_not_compressed_as_it_says_is_refused(
    home: Home, path: str
) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with (
        gateway_before(home, {}) as client,
        client.http.post(path, data=b"{}", headers=headers) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "malformed_body"


async def test_what_anybody_may_ask(home: Home) -> None:
    async with gateway_before(home, {}) as client:
        assert (await client.get("/health"))["status"] == "degraded"
        assert (await client.get("/"))["nodes_total"] == 0
        assert (await client.get("/version"))["protocol"] == 1
        async with client.http.head("/") as response:
            assert response.status == 200
        assert (await client.get("/v1/models"))["data"] == []
        async with client.chat() as response:
            assert response.status == 404


async def test_an_internal_error_says_nothing_and_is_logged(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_before(home, {}) as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(client.gateway), "snapshot", lambda _: 1 / 0)
            error = (await client.get(schema.FLEET, 500))["error"]
        assert error["code"] == "internal_error"
        assert "division" not in error["message"]
        assert "ZeroDivisionError" in caplog.text


async def test_small_writes_leave_at_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def look(request: aiohttp.web.Request) -> aiohttp.web.Response:
        assert request.transport is not None
        sock = request.transport.get_extra_info("socket")
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return aiohttp.web.Response()

    monkeypatch.setattr("services.gateway.info.version", look)
    async with gateway_before(home, {}) as client, client.http.get("/version"):
        assert seen == [1]
