"""Instructor, which makes objects of answers."""

from typing import Any, ClassVar

import anthropic
import instructor
import openai
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel

from tests.clients.drivers.base import (
    ENDLESS,
    LIMIT,
    Answer,
    Driver,
    Mood,
)


class Story(BaseModel):
    """What takes long to write."""

    text: str


class _Instructor(Driver):
    """`chat` and `stream` are of an object: it asks for nothing else."""

    refused = InstructorRetryException
    unknown = InstructorRetryException
    streams_usage = False
    mode: ClassVar[Any]
    """How it asks for the object."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        self._client, self._patched = self.clients()

    def clients(self) -> Any:
        """A client, and what Instructor makes of it."""
        client = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="x", max_retries=0
        )
        return client, instructor.from_openai(client, mode=self.mode)

    async def close(self) -> None:
        await self._client.close()

    def _asked(self, limit: int = LIMIT, temperature: float = 0) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.question}],
            "max_tokens": limit,
            "max_retries": 0,
            "extra_body": {"temperature": temperature},
        }

    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        mood, raw = await self._patched.create_with_completion(
            **self._asked(limit=limit, temperature=temperature), response_model=Mood
        )
        return Answer(mood.model_dump_json(), *self.told(raw))

    def told(self, raw: Any) -> tuple[str, int, int]:
        """Why an answer ended, and the tokens of its prompt and its own."""
        usage = raw.usage
        reason = raw.choices[0].finish_reason
        return reason, usage.prompt_tokens, usage.completion_tokens

    async def stream(self) -> Answer:
        moods = [
            mood
            async for mood in self._patched.create_partial(
                **self._asked(), response_model=Mood
            )
        ]
        return Answer(moods[-1].model_dump_json())

    async def leave(self) -> None:
        self.question = ENDLESS
        stories = self._patched.create_partial(
            **self._asked(limit=200), response_model=Story
        )
        await anext(stories)
        await stories.aclose()
        # That alone leaves the connection open.
        await self.close()

    async def structured(self) -> Mood:
        mood: Mood = await self._patched.create(**self._asked(), response_model=Mood)
        return mood


class ChatTools(_Instructor):
    route = "/v1/chat/completions"
    mode = instructor.Mode.TOOLS
    stop = "tool_calls"


class ChatSchema(_Instructor):
    route = "/v1/chat/completions"
    mode = instructor.Mode.JSON_SCHEMA


class Responses(_Instructor):
    route = "/v1/responses"
    mode = instructor.Mode.RESPONSES_TOOLS
    stop = "completed"

    def told(self, raw: Any) -> tuple[str, int, int]:
        return raw.status, raw.usage.input_tokens, raw.usage.output_tokens


class Messages(_Instructor):
    route = "/v1/messages"
    mode = instructor.Mode.TOOLS
    stop = "tool_use"

    def clients(self) -> Any:
        client = anthropic.AsyncAnthropic(base_url=self.url, api_key="x", max_retries=0)
        return client, instructor.from_anthropic(client, mode=self.mode)

    def told(self, raw: Any) -> tuple[str, int, int]:
        usage = raw.usage
        prompt = usage.input_tokens + usage.cache_read_input_tokens
        return raw.stop_reason, prompt, usage.output_tokens
