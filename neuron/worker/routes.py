"""The worker's HTTP surface."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel

from neuron.operation import register
from neuron.protocol import headers
from neuron.protocol.errors import ApiError
from neuron.text.tokenizer import TextTokenizer
from neuron.web import error_middleware, json_response, read_json, validate
from neuron.worker.inference import Inference
from neuron.worker.operations import OPERATIONS
from neuron.worker.prompts import ServedModel
from neuron.worker.schema import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    TokenizeChatBody,
)
from neuron.worker.toolset import Toolset
from neuron.worker.unsupported import refuse_unsupported

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_LARGE: Final = 1 << 18
"""Bytes of a body that may take longer to validate than streams should stand still."""


class WorkerApi:
    """Handlers over one loaded model."""

    def __init__(self, model: ServedModel, inference: Inference) -> None:
        self._model = model
        self._inference = inference

    def app(self, max_body_bytes: int) -> web.Application:
        app = web.Application(
            middlewares=[error_middleware], client_max_size=max_body_bytes
        )
        register(app, OPERATIONS, self)
        return app

    async def chat(self, request: web.Request) -> web.StreamResponse:
        value = await read_json(request)
        refuse_unsupported(value, chat=True)
        body = await self._validated(request, ChatBody, value)
        return await self._inference.answer(request, body)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        value = await read_json(request)
        refuse_unsupported(value, chat=False)
        body = await self._validated(request, CompletionBody, value)
        return await self._inference.answer(request, body)

    async def tokenize(self, request: web.Request) -> web.Response:
        value = await read_json(request)
        body: TokenizeBody | TokenizeChatBody
        if isinstance(value, dict) and value.get("messages") is not None:
            if value.get("prompt") is not None:
                raise ApiError(
                    400, "prompt: give either it or messages",
                    code="invalid_request_body", param="prompt",
                )  # fmt: skip
            refuse_unsupported(value, chat=True)
            body = await self._validated(request, TokenizeChatBody, value)
        else:
            body = await self._validated(request, TokenizeBody, value)
        ids = await self._in_thread(request, _tokenize, self._model, body)
        answer: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": self._model.max_seq_len,
        }
        if body.return_tokens:
            answer["tokens"] = ids
        if body.return_token_strs:
            answer["token_strs"] = _names(self._model.tokenizer, ids)
        return json_response(answer)

    async def detokenize(self, request: web.Request) -> web.Response:
        value = await read_json(request)
        body = await self._validated(request, DetokenizeBody, value)
        self._model.check_ids(body.tokens, "tokens")
        text = await self._in_thread(request, self._model.tokenizer.decode, body.tokens)
        return json_response({"prompt": text})

    async def _validated(
        self, request: web.Request, model: type[M], value: object
    ) -> M:
        # Read already, so that this only looks at it.
        if len(await request.read()) < _LARGE:
            return validate(model, value)
        return await self._in_thread(request, validate, model, value)

    async def _in_thread(
        self, request: web.Request, function: Callable[..., T], *arguments: object
    ) -> T:
        return await self._inference.text_work.run(
            lambda: asyncio.to_thread(function, *arguments),
            caller=headers.caller(request.headers),
            priority=headers.priority(request.headers),
        )


def _tokenize(model: ServedModel, body: TokenizeBody | TokenizeChatBody) -> list[int]:
    if isinstance(body, TokenizeChatBody):
        return [*model.chat(body, Toolset.of(body)).ids]
    return model.tokenizer.encode(body.prompt, add_bos=body.add_special_tokens)


def _names(tokenizer: TextTokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.token(token_id) for token_id in ids]
