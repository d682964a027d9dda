"""What the gateway costs: the same requests with it and without, in one run.

Client, gateway and upstream are one process each and share this machine's cores, so
only the ratios mean anything.
"""

import asyncio
import re
import time

import aiohttp
import pytest

from tests.perf.gateway.upstream import TOKENS
from tests.support.processes import Home, announced_process, running_gateway

pytestmark = [pytest.mark.perf, pytest.mark.allow_blocking]

WARM_UP_S = 0.5
MEASURED_S = 2.0
CLIENTS = 32
STREAMS = (1, 16, 64)
SENT_AT = re.compile(rb'"content":"(\d+) "')


async def requests_per_second(http: aiohttp.ClientSession) -> float:
    """Small answers that do not stream, from `CLIENTS` at once."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    done = 0
    measured = False
    stop = asyncio.Event()

    async def client() -> None:
        nonlocal done
        while not stop.is_set():
            async with http.post("/v1/chat/completions", json=body) as response:
                assert response.status == 200
                await response.read()
            done += measured

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await asyncio.sleep(WARM_UP_S)
    measured, began = True, time.monotonic()
    await asyncio.sleep(MEASURED_S)
    rate = done / (time.monotonic() - began)
    stop.set()
    await asyncio.gather(*clients)
    return rate


async def token_delays_ms(http: aiohttp.ClientSession, streams: int) -> list[float]:
    """How long each token of all streams was on its way."""
    delays: list[float] = []

    async def client() -> None:
        body = {"model": "m", "stream": True, "messages": []}
        tokens = 0
        async with http.post("/v1/chat/completions", json=body) as response:
            async for chunk in response.content.iter_any():
                now = time.monotonic_ns()
                sent = [int(ns) for ns in SENT_AT.findall(chunk)]
                tokens += len(sent)
                delays.extend((now - ns) / 1e6 for ns in sent)
        assert tokens == TOKENS

    await asyncio.gather(*(client() for _ in range(streams)))
    return sorted(delays)


async def test_the_gateways_overhead(home: Home) -> None:
    with announced_process(
        ["tests.perf.gateway.upstream"], home, "upstream", home.environ
    ) as upstream:
        neuron = f'[[neurons]]\nname = "a"\nendpoint = "{upstream.url}"\n'
        home.config_file("cortex.toml", neuron)
        with running_gateway(home, "--log-level", "warning") as gateway:
            async with (
                aiohttp.ClientSession(
                    upstream.url, connector=aiohttp.TCPConnector(limit=0)
                ) as direct,
                aiohttp.ClientSession(
                    gateway.url, connector=aiohttp.TCPConnector(limit=0)
                ) as through,
            ):
                await compare(direct, through)


async def compare(
    direct: aiohttp.ClientSession, through: aiohttp.ClientSession
) -> None:
    plain = await requests_per_second(direct)
    relayed = await requests_per_second(through)
    table = [
        f"{'':24}{'direct':>10}{'gateway':>10}",
        (
            f"{'requests/s, 32 clients':24}{plain:10.0f}{relayed:10.0f}"
            f"   ratio {relayed / plain:.2f}"
        ),
    ]
    for streams in STREAMS:
        before = await token_delays_ms(direct, streams)
        after = await token_delays_ms(through, streams)
        for name, share in (("p50", 0.50), ("p99", 0.99)):
            a, b = (delays[int(len(delays) * share)] for delays in (before, after))
            label = f"token delay ms {streams}x {name}"
            table.append(f"{label:24}{a:10.2f}{b:10.2f}   added {b - a:.2f}")
    print("", *table, sep="\n")  # noqa: T201
