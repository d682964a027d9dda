"""smolagents: its model class, and the agent that calls tools."""

from typing import Any

import openai
from smolagents import (
    ChatMessage,
    LogLevel,
    MessageRole,
    OpenAIModel,
    ToolCallingAgent,
    agglomerate_stream_deltas,
    tool,
)

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


class Chat(Driver):
    route = "/v1/chat/completions"
    refused = openai.BadRequestError
    unknown = openai.NotFoundError
    stop = None

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        self._model = OpenAIModel(
            model, api_base=f"{url}/v1", api_key="x", client_kwargs={"max_retries": 0}
        )

    async def close(self) -> None:
        self._model.client.close()

    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        settings = {"temperature": temperature, "max_tokens": limit}
        message = self._model.generate([_user(self.question)], **settings)
        return _answer(message)

    async def stream(self) -> Answer:
        settings = {"temperature": 0, "max_tokens": LIMIT}
        pieces = [*self._model.generate_stream([_user(QUESTION)], **settings)]
        return _answer(agglomerate_stream_deltas(pieces))

    async def leave(self) -> None:
        stream = self._model.generate_stream([_user(ENDLESS)], max_tokens=200)
        next(stream)
        stream.close()
        # That alone leaves the connection open.
        await self.close()

    async def call(self, *, streamed: bool) -> Called:
        agent = ToolCallingAgent(
            tools=[tool(tale)], model=self._model, max_steps=1, stream_outputs=streamed,
            verbosity_level=LogLevel.OFF,
        )  # fmt: skip
        result = agent.run(QUESTION, return_full_result=True)
        _, step, _ = result.steps
        (call,) = step["tool_calls"]
        function = call["function"]
        return Called(function["name"], function["arguments"], result.output)

    async def structured(self) -> Mood:
        schema = {"name": "mood", "schema": Mood.model_json_schema()}
        message = self._model.generate(
            [_user(QUESTION)],
            response_format={"type": "json_schema", "json_schema": schema},
            max_tokens=LIMIT,
        )
        return Mood.model_validate_json(message.content)


def _user(text: str) -> Any:
    return ChatMessage(MessageRole.USER, [{"type": "text", "text": text}])


def _answer(message: Any) -> Answer:
    return Answer(
        message.content,
        prompt=message.token_usage.input_tokens,
        completion=message.token_usage.output_tokens,
    )
