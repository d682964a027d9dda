"""The same streams through gateway, neuron and worker, over HTTP on loopback."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.gpu.bench.measure import NEW_TOKENS, PROMPT_TOKENS, Clock, prompts
from tests.support.processes import (
    Process,
    running_gateway,
    running_neuron,
    temporary_home,
)

_DEADLINE: Final = aiohttp.ClientTimeout(total=180)
_LOOKS: Final = 300


@contextmanager
def running_stack(models: Path, environ: dict[str, str]) -> Iterator[Process]:
    """A gateway in front of one neuron that serves the folders in `models`.

    Yields:
        The gateway.
    """
    with temporary_home() as home:
        home.config_file("neuron.toml", f"models_dirs = [{json.dumps(str(models))}]\n")
        with running_neuron(home, environ=environ) as neuron:
            entry = f'[[neurons]]\nname = "gpu"\nendpoint = "{neuron.url}"\n'
            home.config_file("cortex.toml", entry)
            with running_gateway(home) as gateway:
                yield gateway


async def load(gateway: str, model: str, **fields: Any) -> None:
    """Load `model`; `fields` are those of the gateway's load request."""
    async with aiohttp.ClientSession(gateway, timeout=_DEADLINE) as http:
        await _heard_of(http, model)
        body = {"model": model, **fields}
        async with http.post("/admin/v1/models/load", json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{model} was not loaded: {await answer.text()}")


async def _heard_of(http: aiohttp.ClientSession, model: str) -> None:
    for _ in range(_LOOKS):
        async with http.get("/v1/models") as answer:
            listed = (await answer.json())["data"]
        if any(entry["id"] == model for entry in listed):
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the gateway never heard of {model}")


async def streamed(
    gateway: str,
    model: str,
    vocab: int,
    batch: int,
    *,
    new_tokens: int = NEW_TOKENS,
    seed: int = 0,
) -> Clock:
    """The clock of `batch` streams, by what arrived at the client."""
    clock = Clock(batch, new_tokens)
    async with aiohttp.ClientSession(
        gateway, timeout=_DEADLINE, connector=aiohttp.TCPConnector(limit=0)
    ) as http:

        async def client(name: str, prompt: list[int]) -> None:
            body = {
                "model": model, "prompt": prompt, "max_tokens": new_tokens,
                "temperature": 0, "ignore_eos": True, "stream": True,
                "return_token_ids": True,
            }  # fmt: skip
            async with http.post("/v1/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    clock.count(name, _tokens(line))
                    clock.look()

        drawn = prompts(vocab, batch, PROMPT_TOKENS, seed)
        named = [client(str(index), prompt) for index, prompt in enumerate(drawn)]
        await asyncio.gather(*named)
    return clock


def _tokens(line: bytes) -> int:
    """How many tokens a line of the stream brings."""
    if not line.startswith(b"data: {"):
        return 0
    event = json.loads(line[len(b"data: ") :])
    return sum(len(choice.get("token_ids") or ()) for choice in event["choices"])
