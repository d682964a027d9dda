"""LiteLLM as a client, under the prefix of each provider that a gateway can be."""

import json
import os
from typing import Any, ClassVar

import litellm
import openai

from tests.clients.drivers.base import (
    ENDLESS,
    LIMIT,
    QUESTION,
    TALE_TOOL,
    Answer,
    Called,
    Driver,
    Mood,
    tale,
)

litellm.suppress_debug_info = True  # What it prints beside what it raises.


class _LiteLlm(Driver):
    refused = litellm.BadRequestError
    unknown = litellm.NotFoundError
    prefix: ClassVar[str]
    base: ClassVar[str] = "/v1"

    def _ask(self, messages: list[Any], **settings: Any) -> Any:
        asked = {"max_tokens": LIMIT, "temperature": 0} | settings
        return litellm.completion(
            model=f"{self.prefix}/{self.model}",
            api_base=self.url + self.base,
            api_key="x",
            max_retries=0,
            messages=messages,
            **asked,
        )

    def _asked_in_a_stream(self, messages: list[Any], **settings: Any) -> Any:
        more = {"stream": True, "stream_options": {"include_usage": True}}
        pieces = [*self._ask(messages, **settings, **more)]
        return litellm.stream_chunk_builder(pieces, messages=messages)

    async def chat(self, *, temperature: float = 0, limit: int = LIMIT) -> Answer:
        ask = [_user(self.question)]
        return _answer(self._ask(ask, temperature=temperature, max_tokens=limit))

    async def stream(self) -> Answer:
        return _answer(self._asked_in_a_stream([_user(QUESTION)]))

    async def leave(self) -> None:
        stream = self._ask([_user(ENDLESS)], stream=True, max_tokens=200)
        next(stream)
        stream.completion_stream.close()

    async def call(self, *, streamed: bool) -> Called:
        def asked(messages: list[Any], choice: str, **more: Any) -> Any:
            settings = {"tools": [TALE_TOOL], "tool_choice": choice, **more}
            if streamed:
                whole = self._asked_in_a_stream(messages, **settings)
            else:
                whole = self._ask(messages, **settings)
            return whole.choices[0].message

        ask = _user(QUESTION)
        called = asked([ask], "required", parallel_tool_calls=False)
        (call,) = called.tool_calls
        arguments = json.loads(call.function.arguments)
        told = {"role": "tool", "tool_call_id": call.id, "content": tale(**arguments)}
        answer = asked([ask, called, told], "auto")
        return Called(call.function.name, arguments, answer.content)

    async def structured(self) -> Mood:
        answer = self._ask([_user(QUESTION)], response_format=Mood)
        return Mood.model_validate_json(answer.choices[0].message.content)

    async def count(self) -> int:
        counted = await litellm.acount_tokens(
            model=f"{self.prefix}/{self.model}",
            messages=[_user(QUESTION)],
            api_base=self.url + self.base,
            api_key="x",
        )
        assert not counted.error
        tokens: int = counted.total_tokens
        return tokens


class OpenAi(_LiteLlm):
    route = "/v1/chat/completions"
    prefix = "openai"


class Vllm(_LiteLlm):
    route = "/v1/chat/completions"
    prefix = "hosted_vllm"


class Text(_LiteLlm):
    route = "/v1/completions"
    prefix = "text-completion-openai"

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        # It would leave one of its own to the garbage collector.
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)

    async def close(self) -> None:
        self._client.close()

    def _ask(self, messages: list[Any], **settings: Any) -> Any:
        return super()._ask(messages, client=self._client, **settings)

    async def leave(self) -> None:
        next(self._ask([_user(ENDLESS)], stream=True, max_tokens=200))
        # Its stream cannot be closed, but only the connection can.
        self._client.close()


class Messages(_LiteLlm):
    route = "/v1/messages"
    prefix = "anthropic"
    base = ""


class Ollama(_LiteLlm):
    route = "/api/chat"
    prefix = "ollama_chat"
    base = ""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        # Where it asks for what a model can, whatever the request says.
        os.environ["OLLAMA_API_BASE"] = url

    async def close(self) -> None:
        del os.environ["OLLAMA_API_BASE"]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _answer(whole: Any) -> Answer:
    (choice,) = whole.choices
    return Answer(
        choice.message.content,
        finish=choice.finish_reason,
        prompt=whole.usage.prompt_tokens,
        completion=whole.usage.completion_tokens,
    )
