"""OpenAI's Agents SDK."""

import json
from typing import Any, ClassVar

import agents
import openai

from tests.clients.drivers.base import (
    ENDLESS,
    LIMIT,
    QUESTION,
    Answer,
    Called,
    Driver,
    Mood,
    tale,
)


class _Agents(Driver):
    stop = None
    refused = openai.BadRequestError
    unknown = openai.NotFoundError
    kind: ClassVar[Any]
    """Its model class."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        self._client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="x", max_retries=0
        )

    async def close(self) -> None:
        await self._client.close()

    def _agent(self, settings: dict[str, Any], **more: Any) -> Any:
        return agents.Agent(
            name="storyteller",
            model=self.kind(self.model, self._client),
            model_settings=agents.ModelSettings(**settings),
            **more,
        )

    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        agent = self._agent({"max_tokens": limit, "temperature": temperature})
        return _answer(await agents.Runner.run(agent, self.question))

    async def stream(self) -> Answer:
        settings = {"max_tokens": LIMIT, "temperature": 0, "include_usage": True}
        result = agents.Runner.run_streamed(self._agent(settings), QUESTION)
        async for _ in result.stream_events():
            pass
        return _answer(result)

    async def leave(self) -> None:
        agent = self._agent({"temperature": 0})
        result = agents.Runner.run_streamed(agent, ENDLESS)
        async for event in result.stream_events():
            if _is_text(event):
                result.cancel()

    async def call(self, *, streamed: bool) -> Called:
        settings = {
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "max_tokens": LIMIT,
            "temperature": 0,
        }
        agent = self._agent(settings, tools=[agents.function_tool(tale)])
        if streamed:
            result = agents.Runner.run_streamed(agent, QUESTION)
            async for _ in result.stream_events():
                pass
        else:
            result = await agents.Runner.run(agent, QUESTION)
        (call,) = (i.raw_item for i in result.new_items if i.type == "tool_call_item")
        return Called(call.name, json.loads(call.arguments), result.final_output)

    async def structured(self) -> Mood:
        agent = self._agent({"max_tokens": LIMIT, "temperature": 0}, output_type=Mood)
        mood: Mood = (await agents.Runner.run(agent, QUESTION)).final_output
        return mood


class Chat(_Agents):
    route = "/v1/chat/completions"
    kind = agents.OpenAIChatCompletionsModel


class Responses(_Agents):
    route = "/v1/responses"
    kind = agents.OpenAIResponsesModel


def _answer(result: Any) -> Answer:
    usage = result.context_wrapper.usage
    return Answer(
        result.final_output,
        prompt=usage.input_tokens,
        completion=usage.output_tokens,
    )


def _is_text(event: Any) -> bool:
    raw = event.type == "raw_response_event"
    return raw and bool(event.data.type == "response.output_text.delta")
