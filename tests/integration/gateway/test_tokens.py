"""Neurons that ask their gateway for a token."""

import asyncio

import aiohttp
import pytest

from neuron.protocol import routes
from neuron.protocol.announce import Announcement
from tests.integration.gateway.gateways import text_of, until
from tests.integration.gateway.test_process import (
    DEADLINE_S,
    chat,
    session,
    snapshot,
)
from tests.support.processes import Home, Process, running_gateway, running_neuron

TOKEN = "open-sesame"
pytestmark = pytest.mark.allow_blocking


async def test_a_gateway_shows_a_neuron_its_token_and_tells_it_nobody(
    home: Home,
) -> None:
    home.config_file("neuron.toml", f'token = "{TOKEN}"\n')
    async with asyncio.timeout(DEADLINE_S):
        with running_neuron(home) as neuron:
            named = f'[[neurons]]\nname = "one"\nendpoint = "{neuron.url}"\n'
            file = home.config_file("cortex.toml", f'{named}token = "{TOKEN}"\n')
            with running_gateway(home) as gateway:
                async with session(gateway) as http:
                    assert text_of(await chat(http))
                    assert TOKEN not in (await snapshot(http)).model_dump_json()
                assert TOKEN not in gateway.log_text() + neuron.log_text()
            file.write_text(f'{named}token = "a-wrong-one"\n')
            with running_gateway(home) as gateway:
                async with session(gateway) as http:
                    (node,) = (await snapshot(http)).nodes
                    while "has a token" not in (node.reason or ""):
                        await asyncio.sleep(0.1)
                        (node,) = (await snapshot(http)).nodes
                assert "one is down: this neuron has a token" in gateway.log_text()
                assert "a-wrong-one" not in gateway.log_text()


async def asks_for_it(url: str) -> bool:
    async with aiohttp.ClientSession(url) as http, http.get(routes.MODELS) as response:
        return response.status == 401


async def serves(gateway: Process) -> None:
    async with session(gateway) as http:
        assert text_of(await chat(http))
        endpoint = (await snapshot(http)).nodes[0].endpoint
    assert endpoint
    assert await asks_for_it(endpoint)


@pytest.mark.parametrize("said_by", ["neuron.toml", "cortex.toml"])
async def test_a_gateways_own_neuron_and_it_agree(home: Home, said_by: str) -> None:
    section = "" if said_by == "neuron.toml" else "[local]\n"
    file = home.config_file(said_by, f'{section}token = "{TOKEN}"\n')
    environ = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
    async with asyncio.timeout(DEADLINE_S):
        with running_gateway(home, environ=environ) as gateway:
            await serves(gateway)
            gateway.popen.kill()
            gateway.popen.wait()
        # Whoever takes it over shows the token that it has, whatever the files say now.
        file.unlink()
        left = Announcement.read(home.root / "run/cortex/neuron.json")
        assert left is not None
        with running_gateway(home, environ=environ) as gateway:
            await serves(gateway)
            assert TOKEN not in gateway.log_text()
        await until(lambda: not left.process_is_alive())


async def test_somebody_elses_neuron_is_shown_the_gateways_token(home: Home) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with running_neuron(home, environ={"NEURON_TOKEN": TOKEN}) as neuron:
            environ = {
                "CORTEX_LOCAL__LISTEN": neuron.url.removeprefix("http://"),
                "CORTEX_LOCAL__TOKEN": TOKEN,
            }
            with running_gateway(home, environ=environ) as gateway:
                await serves(gateway)
            assert neuron.popen.poll() is None
