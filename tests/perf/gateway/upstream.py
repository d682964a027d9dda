"""A neuron that answers at once, in a process of its own: the gateway's upstream.

Each token of a stream carries the moment it was sent, so that whoever receives it can
tell how long it was on its way.
"""

import argparse
import asyncio
import signal
import time
from pathlib import Path

import orjson
from aiohttp import web

from neuron.protocol import sse
from neuron.protocol.announce import Announcement
from tests.support.fake_neuron import FakeNeuron, token, usage

PACE_S = 0.02
TOKENS = 50


async def reply(request: web.Request) -> web.StreamResponse:
    wanted = orjson.loads(await request.read())
    if not wanted.get("stream"):
        answer = {"choices": [], "usage": usage(1)}
        return web.Response(body=orjson.dumps(answer), content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": sse.CONTENT_TYPE})
    await response.prepare(request)
    for _ in range(TOKENS):
        await response.write(token(f"{time.monotonic_ns()} "))
        await asyncio.sleep(PACE_S)
    await response.write(sse.DONE)
    return response


async def serve(announce: Path) -> None:
    fake = FakeNeuron.with_models("m")
    fake.reply = reply
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with fake.serving():
        Announcement.of_this_process(fake.url).write(announce)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--announce", type=Path, required=True)
    asyncio.run(serve(parser.parse_args().announce))
