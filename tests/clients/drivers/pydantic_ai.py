"""Pydantic AI's agents."""

from typing import Any, ClassVar

import anthropic
import openai
from pydantic_ai import (
    Agent,
    ModelRequest,
    ToolDefinition,
    ToolReturnPart,
    UserPromptPart,
    direct,
    exceptions,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import (
    OpenAIChatModel,
    OpenAIResponsesModel,
)
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.drivers.base import (
    ENDLESS,
    LIMIT,
    QUESTION,
    TALE_SCHEMA,
    Answer,
    Called,
    Driver,
    Mood,
    tale,
)

_TOOLS = ModelRequestParameters(
    function_tools=[
        ToolDefinition(name="tale", parameters_json_schema=TALE_SCHEMA, strict=True)
    ]
)


class _Agents(Driver):
    refused = exceptions.ModelRequestRejectedError
    unknown = exceptions.ModelNotFoundError
    kind: ClassVar[Any]
    """Its model class."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        self._client, provider = self.provider()
        self._model = self.kind(model, provider=provider)

    def provider(self) -> Any:
        """Connections, and what makes them Pydantic AI's."""
        client = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="x", max_retries=0
        )
        return client, OpenAIProvider(openai_client=client)

    async def close(self) -> None:
        await self._client.close()

    def _agent(self, limit: int = LIMIT, temperature: float = 0, **more: Any) -> Any:
        settings = {"max_tokens": limit, "temperature": temperature}
        return Agent(self._model, model_settings=settings, retries=0, **more)

    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        result = await self._agent(limit, temperature).run(self.question)
        return _answer(result.output, result)

    async def stream(self) -> Answer:
        async with self._agent().run_stream(QUESTION) as result:
            pieces = [piece async for piece in _texts(result)]
        return _answer("".join(pieces), result)

    async def leave(self) -> None:
        async with self._agent(limit=200).run_stream(ENDLESS) as result:
            await anext(_texts(result))

    async def call(self, *, streamed: bool) -> Called:
        messages: list[Any] = [ModelRequest([UserPromptPart(QUESTION)])]
        called = await self._asked(messages, "required", streamed=streamed)
        (call,) = called.tool_calls
        arguments = call.args_as_dict()
        result = ToolReturnPart(call.tool_name, tale(**arguments), call.tool_call_id)
        messages += [called, ModelRequest([result])]
        answer = await self._asked(messages, "auto", streamed=streamed)
        return Called(call.tool_name, arguments, answer.text)

    async def _asked(self, messages: list[Any], choice: str, *, streamed: bool) -> Any:
        """An agent itself would not let its model be made to call something."""
        settings = {
            "max_tokens": LIMIT,
            "temperature": 0,
            "tool_choice": choice,
            "parallel_tool_calls": False,
        }
        request = (self._model, messages)
        more = {"model_settings": settings, "model_request_parameters": _TOOLS}
        if not streamed:
            return await direct.model_request(*request, **more)
        async with direct.model_request_stream(*request, **more) as stream:
            async for _ in stream:
                pass
        return stream.get()

    async def structured(self) -> Mood:
        mood: Mood = (await self._agent(output_type=Mood).run(QUESTION)).output
        return mood

    async def count(self) -> int:
        messages = [ModelRequest([UserPromptPart(QUESTION)])]
        usage = await self._model.count_tokens(messages, None, ModelRequestParameters())
        tokens: int = usage.input_tokens
        return tokens


class Chat(_Agents):
    route = "/v1/chat/completions"
    kind = OpenAIChatModel


class Responses(_Agents):
    route = "/v1/responses"
    kind = OpenAIResponsesModel


class Messages(_Agents):
    route = "/v1/messages"
    kind = AnthropicModel

    def provider(self) -> Any:
        client = anthropic.AsyncAnthropic(base_url=self.url, api_key="x", max_retries=0)
        return client, AnthropicProvider(anthropic_client=client)


def _texts(result: Any) -> Any:
    return result.stream_text(delta=True, debounce_by=None)


def _answer(text: str, result: Any) -> Answer:
    return Answer(
        text,
        finish=result.response.finish_reason,
        prompt=result.usage.input_tokens,
        completion=result.usage.output_tokens,
    )
