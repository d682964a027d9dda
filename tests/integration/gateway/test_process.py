"""The gateway as a process, before real neurons with the bundled model."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from neuron.protocol.announce import Announcement
from services import schema
from services.schema import FleetSnapshot
from tests.integration.gateway.gateways import decoded, text_of, until
from tests.support.fake_neuron import FakeNeuron, endless, story
from tests.support.processes import (
    Home,
    Process,
    running_gateway,
    running_neuron,
    temporary_home,
)

MODEL = "tinystories-15m"
DEADLINE_S = 60.0
pytestmark = pytest.mark.allow_blocking


def fleet_of(**endpoints: str) -> str:
    """cortex.toml that names these neurons."""
    return "".join(
        f'[[neurons]]\nname = "{name}"\nendpoint = "{url}"\n'
        for name, url in endpoints.items()
    )


@asynccontextmanager
async def session(gateway: Process) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(gateway.url) as http:
        yield http


async def snapshot(http: aiohttp.ClientSession) -> FleetSnapshot:
    async with http.get(schema.FLEET) as response:
        return FleetSnapshot.model_validate_json(await response.read())


async def chat(http: aiohttp.ClientSession, **fields: Any) -> list[Any]:
    body = {
        "model": MODEL,
        "stream": True,
        "messages": [{"role": "user", "content": "Once upon a time"}],
        "max_tokens": 24,
        "temperature": 0,
        **fields,
    }
    async with http.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        return decoded(await response.read())


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Home, Process]]:
    """Two real neurons, and a gateway that names them."""
    with (
        temporary_home() as home,
        running_neuron(home, name="one") as one,
        running_neuron(home, name="two") as two,
    ):
        home.config_file("cortex.toml", fleet_of(one=one.url, two=two.url))
        home.config_file("models.toml", "# nothing yet\n")
        with running_gateway(home) as gateway:
            yield home, gateway


@pytest.fixture
async def http(fleet: tuple[Home, Process]) -> AsyncIterator[aiohttp.ClientSession]:
    async with asyncio.timeout(DEADLINE_S), session(fleet[1]) as client:
        yield client


async def test_two_hosts_are_one_api(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models") as response:
        (model,) = (await response.json())["data"]
    assert model["id"] == MODEL
    assert [place["node"] for place in model["locations"]] == ["one", "two"]
    for node in ("one", "two"):
        body = {"model": MODEL, "node": node, "by": "a test"}
        async with http.post(schema.LOAD, json=body) as response:
            operation = await response.json()
        assert operation["state"] == "done", operation
    both = await asyncio.gather(*(chat(http) for _ in range(4)))
    assert {text_of(events) for events in both} == {text_of(both[0])}
    assert all(events[-1] == "[DONE]" for events in both)
    fleet = await snapshot(http)
    assert [node.state for node in fleet.nodes] == ["ready", "ready"]
    assert [r.state for r in fleet.models[0].replicas] == ["ready", "ready"]
    assert fleet.models[0].ttft_s is not None
    async with aiohttp.ClientSession() as other:
        assert fleet.gateway.metrics_url is not None
        async with other.get(fleet.gateway.metrics_url) as response:
            metrics = await response.text()
    for node in ("one", "two"):
        labels = f'model="{MODEL}",node="{node}"'
        assert f"cortex_completion_tokens_total{{{labels}}} 48.0" in metrics
        assert f"cortex_time_to_first_token_seconds_count{{{labels}}} 2.0" in metrics


async def test_unloading_frees_memory_and_a_request_brings_it_back(
    http: aiohttp.ClientSession,
) -> None:
    async with http.post(schema.LOAD, json={"model": MODEL}) as response:
        assert (await response.json())["state"] == "done"
    async with http.post(schema.UNLOAD, json={"model": MODEL}) as response:
        operation = await response.json()
    assert operation["state"] == "done", operation
    assert operation["freed_bytes"] > 0
    assert (await snapshot(http)).models[0].state == "unloaded"
    assert len(text_of(await chat(http)).split()) > 10
    states = [r.state for r in (await snapshot(http)).models[0].replicas]
    assert sorted(states) == ["ready", "unloaded"]


async def test_tokenizing_goes_through(http: aiohttp.ClientSession) -> None:
    body = {"model": MODEL, "prompt": "Once upon a time"}
    async with http.post("/v1/tokenize", json=body) as response:
        tokens = (await response.json())["tokens"]
    body = {"model": MODEL, "tokens": tokens}
    async with http.post("/v1/detokenize", json=body) as response:
        assert "Once upon a time" in await response.text()


async def test_a_pin_survives_in_the_file(
    fleet: tuple[Home, Process], http: aiohttp.ClientSession
) -> None:
    file = fleet[0].root / "config/cortex/models.toml"
    async with http.post(schema.PIN, json={"model": MODEL}) as response:
        assert (await response.json())["state"] == "done"
    text = file.read_text()
    assert text.startswith("# nothing yet\n")
    assert tomllib.loads(text)["models"] == [{"id": MODEL, "pinned": True}]
    assert (await snapshot(http)).models[0].pinned


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("ngram = true", "this engine has no speculative decoding"),
        ('loras = [{ path = "tone" }]', "this engine applies no LoRA adapters"),
        ("yarn_factor = 2", "this engine extends no context"),
    ],
)
async def test_an_option_that_the_engine_lacks_is_told_to_whoever_waits_for_it(
    home: Home, option: str, words: str
) -> None:
    with running_neuron(home) as neuron:
        home.config_file("cortex.toml", fleet_of(one=neuron.url))
        file = home.config_file(
            "models.toml", f'[[models]]\nid = "{MODEL}"\n{option}\n'
        )
        with running_gateway(home) as gateway:
            async with asyncio.timeout(DEADLINE_S), session(gateway) as http:
                body = {"model": MODEL, "prompt": "Once", "max_tokens": 4}
                async with http.post("/v1/completions", json=body) as response:
                    error = (await response.json())["error"]
                assert (response.status, error["code"]) == (503, "unsupported")
                assert error["message"].startswith(f"'{MODEL}' cannot be loaded: ")
                assert words in error["message"]
                async with http.post(schema.LOAD, json={"model": MODEL}) as response:
                    operation = await response.json()
                assert operation["state"] == "failed"
                assert words in operation["error"]
                file.write_text("")
                gateway.popen.send_signal(signal.SIGHUP)
                await told(http, "the configuration was read again")
                async with http.post("/v1/completions", json=body) as response:
                    assert response.status == 200, await response.text()


async def test_the_local_neuron_is_started_and_stopped_with_the_gateway() -> None:
    with temporary_home() as home:
        environ = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
        with running_gateway(home, environ=environ) as gateway:
            async with asyncio.timeout(DEADLINE_S), session(gateway) as http:
                events = await chat(http)
                assert len(text_of(events).split()) > 10
                neuron = Announcement.read(home.root / "run/cortex/neuron.json")
                assert neuron is not None
                os.kill(neuron.pid, signal.SIGKILL)
                # It is started again, and the model loaded again, for who waits.
                assert text_of(await chat_when_back(http)) == text_of(events)
            assert gateway.announcement.socket == str(
                home.root / "run/cortex/gateway.sock"
            )
            again = Announcement.read(home.root / "run/cortex/neuron.json")
            assert again is not None
            assert again.pid != neuron.pid
            assert gateway.stop() == 0
        assert not again.process_is_alive()
        assert not (home.root / "run/cortex/gateway.sock").exists()
        assert not (home.root / "run/cortex/gateway.json").exists()
        assert "the local neuron ended (exit -9)" in gateway.log_text()


async def chat_when_back(http: aiohttp.ClientSession) -> list[Any]:
    """As a client does that honours 502 and 503 with Retry-After."""
    while True:
        try:
            return await chat(http)
        except AssertionError:
            await asyncio.sleep(0.5)


async def test_a_local_neuron_that_cannot_start_is_told_with_its_last_words(
    home: Home,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        environ = {"CORTEX_LOCAL__LISTEN": listen}
        with running_gateway(home, environ=environ) as gateway:
            async with asyncio.timeout(DEADLINE_S), session(gateway) as http:
                text = await told(http, "the local neuron did not start")
                assert "(exit 1): " in text
                assert "address already in use" in text.lower()
                (node,) = (await snapshot(http)).nodes
                assert (node.state, node.reason) == ("down", text)


async def test_a_neuron_left_by_a_crashed_gateway_is_taken_over(home: Home) -> None:
    environ = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
    file = home.root / "run/cortex/neuron.json"
    async with asyncio.timeout(DEADLINE_S):
        with running_gateway(home, environ=environ) as gateway:
            async with session(gateway) as http:
                assert await chat(http)
            gateway.popen.kill()
            gateway.popen.wait()
        left = Announcement.read(file)
        assert left is not None
        assert left.process_is_alive()
        with running_gateway(home, environ=environ) as gateway:
            async with session(gateway) as http:
                async with http.get("/v1/models") as response:
                    (model,) = (await response.json())["data"]
                assert model["loaded"]
                assert (await snapshot(http)).nodes[0].endpoint == left.url
            assert gateway.stop() == 0
        assert not left.process_is_alive()


async def test_a_neuron_that_runs_is_used_and_left_running(home: Home) -> None:
    with running_neuron(home) as neuron:
        listen = neuron.url.removeprefix("http://")
        environ = {"CORTEX_LOCAL__LISTEN": listen}
        with running_gateway(home, environ=environ) as gateway:
            async with asyncio.timeout(DEADLINE_S), session(gateway) as http:
                async with http.get("/v1/models") as response:
                    assert len((await response.json())["data"]) == 1
                assert (await snapshot(http)).nodes[0].endpoint == neuron.url
            assert gateway.stop() == 0
        assert neuron.popen.poll() is None


async def test_sigterm_refuses_drains_and_ends(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        asyncio.timeout(DEADLINE_S),
    ):
        fake.reply = story(["word "] * 20, pace_s=0.05)
        home.config_file("cortex.toml", fleet_of(a=fake.url))
        with running_gateway(home) as gateway:
            async with session(gateway) as http:
                running = asyncio.ensure_future(chat(http, model="m"))
                await until(lambda: bool(fake.received))
                gateway.popen.send_signal(signal.SIGTERM)
                await refused(http)
                async with http.get("/health") as response:
                    assert (await response.json())["status"] == "draining"
                events = await running
            assert text_of(events) == "word " * 20
            assert events[-1] == "[DONE]"
            code = await asyncio.to_thread(gateway.popen.wait, 10)
        assert code == 0


async def refused(http: aiohttp.ClientSession) -> None:
    """Until new work is refused; what came before is served."""
    while True:
        async with http.post("/v1/completions", json={"model": "x"}) as response:
            error = (await response.json())["error"]
            if error["code"] == "shutting_down":
                assert response.status == 503
                assert "Retry-After" in response.headers
                break
        await asyncio.sleep(0.01)
    body = {"model": "m"}
    async with http.post(schema.UNLOAD, json=body) as response:
        assert response.status == 503


async def test_sigterm_wakes_who_waits_for_a_load(home: Home) -> None:
    fake_models = FakeNeuron.with_models("m")
    async with fake_models.serving() as fake, asyncio.timeout(DEADLINE_S):
        fake.set_state("m", fake.models["m"].state.UNLOADED)
        fake.load_gate.clear()
        home.config_file("cortex.toml", fleet_of(a=fake.url))
        with running_gateway(home) as gateway:
            async with session(gateway) as http:
                body = {"model": "m"}
                waiting = asyncio.ensure_future(http.post("/v1/completions", json=body))
                await until(lambda: bool(fake.loads))
                gateway.popen.send_signal(signal.SIGTERM)
                async with await waiting as response:
                    assert response.status == 503
                    assert (await response.json())["error"]["code"] == "shutting_down"
            assert await asyncio.to_thread(gateway.popen.wait, 10) == 0


async def test_what_outlasts_the_drain_is_cut(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        asyncio.timeout(DEADLINE_S),
    ):
        fake.reply = endless()
        home.config_file("cortex.toml", fleet_of(a=fake.url))
        environ = {"CORTEX_GATEWAY__DRAIN_S": "0.2"}
        with running_gateway(home, environ=environ) as gateway:
            async with session(gateway) as http:
                running = asyncio.ensure_future(chat(http, model="m"))
                await until(lambda: bool(fake.received))
                gateway.popen.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(gateway.popen.wait, 10) == 0
                await asyncio.gather(running, return_exceptions=True)
            await asyncio.wait_for(fake.abandoned.wait(), 5)


async def test_a_second_sigterm_ends_it_now(home: Home) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        asyncio.timeout(DEADLINE_S),
    ):
        fake.reply = endless()
        home.config_file("cortex.toml", fleet_of(a=fake.url))
        with running_gateway(home) as gateway:
            async with session(gateway) as http:
                running = asyncio.ensure_future(chat(http, model="m"))
                await until(lambda: bool(fake.received))
                gateway.popen.send_signal(signal.SIGTERM)
                await refused(http)
                gateway.popen.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(gateway.popen.wait, 10) == 1
                await asyncio.gather(running, return_exceptions=True)


async def test_sighup_reads_the_files_again_and_keeps_the_old_ones_if_bad(
    home: Home,
) -> None:
    async with (
        FakeNeuron.with_models("m").serving() as a,
        FakeNeuron.with_models("n").serving() as b,
        asyncio.timeout(DEADLINE_S),
    ):
        home.config_file("cortex.toml", fleet_of(a=a.url))
        with running_gateway(home) as gateway:
            async with session(gateway) as http:
                home.config_file("cortex.toml", fleet_of(b=b.url))
                home.config_file(
                    "models.toml",
                    'default_model = "n"\n[[models]]\nid = "n"\npinned = true\n'
                    'aliases = ["small"]\n',
                )
                gateway.popen.send_signal(signal.SIGHUP)
                await told(http, "the configuration was read again")
                async with http.get("/v1/models") as response:
                    models = (await response.json())["data"]
                told_of = [(model["id"], model["pinned"]) for model in models]
                assert told_of == [("n", True), ("small", True)]
                assert await chat(http, model="whatever")
                home.config_file("cortex.toml", "[gateway]\nlistn = 1\n")
                gateway.popen.send_signal(signal.SIGHUP)
                text = await told(http, "the configuration was not read again")
                assert "cortex.toml:2: gateway.listn: unknown key" in text
                assert [n.name for n in (await snapshot(http)).nodes] == ["b"]
                home.config_file(
                    "cortex.toml", "[gateway]\nmax_body_mb = 1\n" + fleet_of(b=b.url)
                )
                gateway.popen.send_signal(signal.SIGHUP)
                await until(lambda: "max_body_mb takes effect" in gateway.log_text())


async def told(http: aiohttp.ClientSession, beginning: str) -> str:
    while True:
        for event in (await snapshot(http)).events:
            if event.text.startswith(beginning):
                return event.text
        await asyncio.sleep(0.02)


def started(home: Home, *arguments: str, **environ: str) -> tuple[int, str]:
    """Exit code and output of a gateway that is not expected to stay."""
    done = subprocess.run(
        [sys.executable, "-m", "services.gateway", *arguments],
        env=home.environ | {"CORTEX_LOCAL__NEURON": "off"} | environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stderr


def test_it_says_why_it_cannot_start(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, output = started(home, "--listen", address)
        assert code == 2
        # One line: nothing is left open that Python would warn of.
        reason = f"cannot listen on {address}: address already in use"
        assert output == f"cortex: gateway.listen: {reason}\n"
        listen = {"CORTEX_GATEWAY__METRICS_LISTEN": address}
        code, output = started(home, "--listen", "127.0.0.1:0", **listen)
        assert code == 2
        assert f"gateway.metrics_listen: cannot listen on {address}: " in output
    code, output = started(home, "--config", "/nowhere/cortex.toml")
    assert (code, output) == (2, "cortex: /nowhere/cortex.toml: no such file\n")
    home.config_file("cortex.toml", "[gateway]\n\nlisten = 7\n")
    code, output = started(home)
    assert code == 2
    assert "cortex.toml:3: gateway.listen: " in output


def test_two_gateways_of_one_user_do_not_fight(home: Home) -> None:
    with running_gateway(home, environ={"CORTEX_LOCAL__NEURON": "off"}) as gateway:
        code, output = started(home, "--listen", "127.0.0.1:0")
        assert code == 2
        assert "another gateway of this user is running" in output
        announced = json.loads((home.root / "run/cortex/gateway.json").read_text())
        assert announced["url"] == gateway.url
