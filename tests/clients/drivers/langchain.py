"""LangChain's chat models for OpenAI and for Anthropic.

Called without `async`, because they keep their connections from one event loop to the
next.
"""

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core import exceptions
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from tests.clients.drivers.base import (
    ENDLESS,
    LIMIT,
    QUESTION,
    Answer,
    Called,
    Driver,
    Mood,
    Tale,
    tale,
)


class _LangChain(Driver):
    refused = exceptions.ModelInvalidRequestError
    unknown = exceptions.ModelNotFoundError

    def make(self, **settings: Any) -> Any:
        return ChatOpenAI(
            model=self.model,
            base_url=f"{self.url}/v1",
            api_key="x",
            max_retries=0,
            **settings,
        )

    def _model(self, limit: int = LIMIT, temperature: float = 0) -> Any:
        return self.make(temperature=temperature, max_tokens=limit)

    def finish(self, message: Any) -> str | None:
        reason: str = message.response_metadata["finish_reason"]
        return reason

    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        return self._answer(self._model(limit, temperature).invoke(self.question))

    async def stream(self) -> Answer:
        return self._answer(_sum([*self._model().stream(self.question)]))

    async def leave(self) -> None:
        stream = self._model(limit=200).stream(ENDLESS)
        next(stream)
        stream.close()

    async def call(self, *, streamed: bool) -> Called:
        question = HumanMessage(QUESTION)
        model = self._model().bind_tools([Tale], tool_choice="Tale")
        called = _asked(model, [question], streamed=streamed)
        (call,) = called.tool_calls
        result = ToolMessage(tale(**call["args"]), tool_call_id=call["id"])
        conversation = [question, called, result]
        model = self._model().bind_tools([Tale])
        answer = _asked(model, conversation, streamed=streamed)
        return Called(call["name"], call["args"], answer.text)

    async def structured(self) -> Mood:
        model = self._model().with_structured_output(Mood)
        mood: Mood = model.invoke(QUESTION)
        return mood

    def _answer(self, message: Any) -> Answer:
        return Answer(
            message.text,
            finish=self.finish(message),
            prompt=message.usage_metadata["input_tokens"],
            completion=message.usage_metadata["output_tokens"],
        )


class Chat(_LangChain):
    route = "/v1/chat/completions"


class Responses(_LangChain):
    route = "/v1/responses"
    stop = "completed"
    length = "max_output_tokens"

    def make(self, **settings: Any) -> Any:
        return super().make(use_responses_api=True, **settings)

    def finish(self, message: Any) -> str | None:
        status: str = message.response_metadata["status"]
        why = message.response_metadata.get("incomplete_details")
        return why["reason"] if why else status


class Messages(_LangChain):
    route = "/v1/messages"
    stop = "end_turn"
    length = "max_tokens"

    def make(self, **settings: Any) -> Any:
        return ChatAnthropic(
            model=self.model,
            base_url=self.url,
            api_key="x",
            max_retries=0,
            **settings,
        )

    def finish(self, message: Any) -> str | None:
        reason: str = message.response_metadata["stop_reason"]
        return reason

    async def count(self) -> int:
        question = [HumanMessage(QUESTION)]
        tokens: int = self._model().get_num_tokens_from_messages(question)
        return tokens


def _asked(model: Any, messages: list[Any], *, streamed: bool) -> Any:
    if streamed:
        return _sum([*model.stream(messages)])
    return model.invoke(messages)


def _sum(pieces: list[Any]) -> Any:
    return sum(pieces[1:], pieces[0])
