"""llama.cpp as an oracle: the same GGUF file in another implementation.

It comes in the wheel `xllamacpp`, whole and without a compiler, and runs in a process
of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.support import llama_cpp_server
from tests.support.cache import unpacked
from tests.support.wheels import Wheel

WHEEL = Wheel(
    name="xllamacpp",
    version="2026.10.11549",
    file="xllamacpp-2026.10.11549-cp310-abi3-"
    "manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256="c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261",
)
DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """One model, served by llama.cpp."""

    http: httpx.Client

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids; `special` puts around the text what the model wants there."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return list(self._post("/tokenize", body)["tokens"])

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as the model's template renders it."""
        return str(self._post("/apply-template", {"messages": messages})["prompt"])

    def logprobs(self, ids: Sequence[int], count: int) -> dict[int, float]:
        """Log-probability of the most probable tokens after `ids`."""
        body = {"prompt": ids, "n_predict": 1, "n_probs": count, "temperature": 0}
        (place,) = self._post("/completion", body)["completion_probabilities"]
        return {each["id"]: each["logprob"] for each in place["top_logprobs"]}

    def _post(self, path: str, body: object) -> dict[str, Any]:
        response = self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())


@contextmanager
def running_llama_cpp(files: Sequence[Path]) -> Iterator[list[LlamaCpp]]:
    """A server for each file; skips where llama.cpp is not to be had."""
    package = unpacked(WHEEL)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, llama_cpp_server.__file__, *map(str, files)],
            env=os.environ | {"PYTHONPATH": str(package), "GGML_NO_BACKTRACE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise AssertionError(log.read().decode(errors="replace"))
            with ExitStack() as clients:
                yield [
                    LlamaCpp(
                        clients.enter_context(
                            httpx.Client(
                                base_url=url, timeout=DEADLINE_S, trust_env=False
                            )
                        )
                    )
                    for url in json.loads(line)
                ]
        finally:
            process.stdin.close()
            process.stdout.close()
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
