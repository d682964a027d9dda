"""Simon Willison's llm, from its command line."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any, ClassVar

from tests.clients.drivers.base import (
    ENDLESS,
    LIMIT,
    QUESTION,
    Answer,
    Driver,
    Mood,
)

_DEADLINE_S = 30


class LlmError(Exception):
    """What it said when it gave up."""


class Chat(Driver):
    route = "/v1/chat/completions"
    refused = LlmError
    unknown = LlmError
    stop = None
    field = "max_tokens"
    settings: ClassVar[dict[str, Any]] = {}
    """Of the model in its extra-openai-models.yaml, which may be JSON."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        self._home = tempfile.TemporaryDirectory(prefix="llm")
        entry = {
            "model_id": model,
            "model_name": model,
            "api_base": f"{url}/v1",
            "supports_schema": True,
            "supports_tools": True,
            **self.settings,
        }
        file = Path(self._home.name) / "extra-openai-models.yaml"
        file.write_text(json.dumps([entry]), encoding="utf-8")

    async def close(self) -> None:
        self._home.cleanup()

    def _start(self, question: str, *more: str, **options: float) -> "Popen[str]":
        settings = {"temperature": 0, "max_tokens": LIMIT} | options
        chosen = [word for pair in settings.items() for word in ("-o", *map(str, pair))]
        command = ["llm", "prompt", question, "-m", self.model, *chosen, *more]
        return Popen(
            [sys.executable, "-m", "tests.support.loopback", *command],
            env=os.environ | {"LLM_USER_PATH": self._home.name, "OPENAI_API_KEY": "x"},
            stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True,
        )  # fmt: skip

    def _answer(self, *more: str, **options: float) -> Answer:
        with self._start(QUESTION, "--usage", *more, **options) as process:
            said, told = process.communicate(timeout=_DEADLINE_S)
        if process.returncode:
            raise LlmError(told)
        used = re.search(r"Token usage: (\d+) input, (\d+) output", told)
        assert used, told
        return Answer(said.rstrip(), prompt=int(used[1]), completion=int(used[2]))

    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        return self._answer("--no-stream", temperature=temperature, max_tokens=limit)

    async def stream(self) -> Answer:
        return self._answer()

    async def refuse(self) -> None:
        # It refuses an impossible temperature itself.
        await self.chat(limit=-1)

    async def leave(self) -> None:
        with self._start(ENDLESS, max_tokens=200) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            # Not an interrupt, which what runs in the background may not hear.
            process.terminate()
            process.communicate(timeout=_DEADLINE_S)

    async def structured(self) -> Mood:
        schema = json.dumps(Mood.model_json_schema())
        return Mood.model_validate_json(self._answer("--schema", schema).text)


class Responses(Chat):
    route = "/v1/responses"
    field = "max_output_tokens"
    settings: ClassVar[dict[str, Any]] = {"responses": True}
