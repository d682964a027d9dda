"""Keys of a gateway that is a process: over restarts, reloads and beyond loopback."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from services.keys import edit
from services.keys.file import KeySection
from services.keys.store import SPEND_FILE, read_spend
from services.schema import KEYS, KeyList, KeyView
from tests.integration.gateway.gateways import until
from tests.integration.gateway.test_process import fleet_of
from tests.support.fake_neuron import PROMPT, FakeNeuron
from tests.support.processes import Home, Process, running_gateway

DEADLINE_S = 60.0
TOKENS = PROMPT + 3
"""Of one answer of the fake neuron."""
pytestmark = pytest.mark.allow_blocking


def add_key(home: Home, **fields: object) -> tuple[KeySection, str]:
    return edit.add(keys_file(home), name="alice", **fields)


def keys_file(home: Home) -> Path:
    return home.root / "config" / "cortex" / "keys.toml"


@asynccontextmanager
async def before_one_neuron(home: Home) -> AsyncIterator[FakeNeuron]:
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        asyncio.timeout(DEADLINE_S),
    ):
        home.config_file("cortex.toml", fleet_of(a=fake.url))
        yield fake


async def status(gateway: Process, key: str | None) -> int:
    headers = {"x-api-key": key} if key else None
    async with (
        aiohttp.ClientSession(gateway.url, headers=headers) as http,
        http.post("/v1/chat/completions", json={"model": "m"}) as response,
    ):
        await response.read()
        return response.status


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_budget_survives_its_gateway(home: Home, end: signal.Signals) -> None:
    _, shown = add_key(home, budget_tokens=2 * TOKENS - 1)
    database = home.root / "state" / "cortex" / SPEND_FILE
    async with before_one_neuron(home):
        with running_gateway(home) as gateway:
            assert await status(gateway, shown) == 200
            if end is signal.SIGKILL:
                await until(
                    lambda: sum(e.spent.tokens for e in read_spend(database)) == TOKENS
                )
            await asyncio.to_thread(gateway.stop, end)
        with running_gateway(home) as gateway:
            assert await status(gateway, shown) == 200
            assert await status(gateway, shown) == 429
            assert gateway.stop() == 0
    assert sum(entry.spent.tokens for entry in read_spend(database)) == 2 * TOKENS


LENGTH = 16
_HELLO = [{"role": "user", "content": "Once upon a time"}]
_ASKS: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": _HELLO, "max_tokens": LENGTH},
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": LENGTH},
    "/v1/messages": {"messages": _HELLO, "max_tokens": LENGTH},
    "/v1/responses": {"input": "Once upon a time", "max_output_tokens": LENGTH},
    "/api/chat": {"messages": _HELLO, "options": {"num_predict": LENGTH}},
    "/api/generate": {"prompt": "Once upon a time", "options": {"num_predict": LENGTH}},
}


async def test_every_dialect_is_charged_by_the_token(home: Home) -> None:
    _, shown = add_key(home, scope="admin")
    environ = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
    headers = {"Authorization": f"Bearer {shown}"}
    with running_gateway(home, environ=environ) as gateway:
        async with (
            asyncio.timeout(DEADLINE_S),
            aiohttp.ClientSession(gateway.url, headers=headers) as http,
        ):
            answers = prompt = 0
            for path, asks in _ASKS.items():
                for stream in (False, True):
                    body = {"model": "tinystories-15m", "stream": stream, **asks}
                    async with http.post(path, json=body) as response:
                        assert response.status == 200, await response.text()
                        await response.read()
                    answers += 1
                    told = await spent(http)
                    assert told.completion_tokens == LENGTH * answers, (path, stream)
                    assert told.prompt_tokens > prompt, (path, stream)
                    prompt = told.prompt_tokens
            assert (await spent(http)).requests == answers


async def spent(http: aiohttp.ClientSession) -> KeyView:
    async with http.get(KEYS) as response:
        return KeyList.model_validate_json(await response.read()).keys[0]


async def test_a_reload_reads_keys_too_and_refuses_broken_ones(home: Home) -> None:
    async with before_one_neuron(home):
        with running_gateway(home) as gateway:
            assert await status(gateway, None) == 200
            _, shown = add_key(home)
            gateway.popen.send_signal(signal.SIGHUP)
            await until(lambda: "was read again" in gateway.log_text())
            assert await status(gateway, None) == 401
            assert await status(gateway, shown) == 200
            keys_file(home).write_text("[[keys]]\nid = 'broken'\n")
            gateway.popen.send_signal(signal.SIGHUP)
            where = f"{keys_file(home)}:1: keys.0.name: "
            await until(
                lambda: (
                    f"the old configuration stays: {where}" in gateway.log_text()
                    and f"the old keys stay in force: {where}" in gateway.log_text()
                )
            )
            assert await status(gateway, shown) == 200
            log = gateway.log_text()
    assert shown not in log
    assert log.count("was read again; good keys: 1") == 1
    assert re.search(r"request id=\S+ refused: 401 this gateway needs a key", log)


def beyond_loopback(home: Home, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "services.gateway", "--listen", "0.0.0.0:0"]
    return subprocess.run(
        [*command, *arguments],
        env=home.environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_beyond_loopback_it_does_not_start_without_keys(home: Home) -> None:
    refused = beyond_loopback(home)
    assert refused.returncode == 2
    assert "cortex-tui keys add NAME" in refused.stderr
    assert 'auth = "none"' in refused.stderr
    assert str(keys_file(home)) in refused.stderr


async def test_beyond_loopback_with_a_key(home: Home) -> None:
    _, shown = add_key(home)
    environ = {"CORTEX_GATEWAY__LISTEN": "0.0.0.0:0"}
    async with before_one_neuron(home):
        with running_gateway(home, environ=environ) as gateway:
            await until(lambda: "everybody is asked for one" in gateway.log_text())
            assert await status(gateway, None) == 401
            assert await status(gateway, shown) == 200


def test_a_keys_file_that_is_broken_from_the_start(home: Home) -> None:
    add_key(home)
    keys_file(home).write_text(keys_file(home).read_text() + "rpm = 5\n")
    refused = beyond_loopback(home)
    assert refused.returncode == 2
    assert "keys.0.rpm: unknown key" in refused.stderr
