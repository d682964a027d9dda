"""The same streams through gateway, neuron and worker, over HTTP on loopback."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import aiohttp

from neuron.engines.exllamav2.host.extension import FOLDER_VARIABLE, extensions_dir
from neuron.engines.exllamav2.levers import PREFIX
from tests.gpu.bench.measure import NEW_TOKENS, PROMPT_TOKENS, Clock, prompts
from tests.support.processes import (
    Process,
    running_gateway,
    running_neuron,
    temporary_home,
)

_DEADLINE: Final = aiohttp.ClientTimeout(total=180)
_LOOKS: Final = 300
_SAID: Final = 20_000
"""Characters of a neuron's log, the last ones."""


@contextmanager
def running_stack(
    folder: Path, entry: Mapping[str, object], environ: dict[str, str]
) -> Iterator[Process]:
    """A gateway in front of one neuron.

    Args:
        folder: the model that is served.
        entry: the rest of what models.toml says of it.
        environ: of the neuron, beside its home's.

    Yields:
        The gateway.
    """
    with temporary_home() as home:
        root = json.dumps(str(folder.parent))
        home.config_file("neuron.toml", f"models_dirs = [{root}]\n")
        lines = {"id": folder.name, **entry}
        said = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
        home.config_file("models.toml", f"[[models]]\n{said}")
        with running_neuron(home, environ=environ) as neuron, _told(neuron):
            known = f'[[neurons]]\nname = "gpu"\nendpoint = "{neuron.url}"\n'
            home.config_file("cortex.toml", known)
            with running_gateway(home) as gateway:
                yield gateway


@contextmanager
def _told(neuron: Process) -> Iterator[None]:
    """Where this fails, what the neuron and its workers have said is said here."""
    try:
        yield
    except BaseException:
        sys.stderr.write(f"{neuron.log_text()[-_SAID:]}\n")
        raise


def serving_environ() -> dict[str, str]:
    """What a neuron in a home of its own has to be told of this process's."""
    levers = {k: v for k, v in os.environ.items() if k.startswith(PREFIX)}
    kernels = os.environ.get("TRITON_CACHE_DIR", str(Path.home() / ".triton" / "cache"))
    return levers | {
        FOLDER_VARIABLE: str(extensions_dir().parent),
        "TRITON_CACHE_DIR": kernels,
    }


async def load(gateway: str, model: str) -> None:
    """Load `model`, once the gateway has heard of it."""
    async with aiohttp.ClientSession(gateway, timeout=_DEADLINE) as http:
        await _heard_of(http, model)
        body = {"model": model}
        async with http.post("/admin/v1/models/load", json=body) as answer:
            said = await answer.text()
            if answer.status != 200 or json.loads(said)["state"] != "done":
                raise RuntimeError(f"{model} was not loaded: {said}")


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
