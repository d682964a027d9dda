"""The gateway, asynchronously: admin calls, the event stream, test prompts.

Imported after the first frame, because aiohttp is slow to import.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

import aiohttp
from pydantic import ValidationError

from cortex_tui.plain_http import Refused, Unreachable, error_message
from cortex_tui.target import Target
from neuron.protocol import routes, sse
from services import schema

SILENCE_S: Final = 15.0
"""A stream that says nothing for so long is dead: a comment comes every 10 s."""
CALL_S: Final = 10.0
CONNECT_S: Final = 5.0

_ROUTES: Final = {
    "load": schema.LOAD,
    "unload": schema.UNLOAD,
    "pin": schema.PIN,
    "unpin": schema.UNPIN,
}

Message = schema.FleetSnapshot | schema.FleetDelta | schema.FleetEvent | None
"""One item of the stream; None is a sign of life without news."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a test prompt's answer."""

    text: str = ""
    finish: str | None = None
    completion_tokens: int | None = None


class GatewayClient:
    """One session with one gateway; use as an asynchronous context manager."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        path = self.target.socket
        connector = aiohttp.UnixConnector(path) if path else aiohttp.TCPConnector()
        shown = None if path else self.target.key
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {shown}"} if shown else None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def act(
        self,
        kind: Literal["load", "unload", "pin", "unpin"],
        action: schema.ModelAction,
    ) -> schema.Operation:
        """Ask for a change; the event stream says how it ends.

        Raises:
            Unreachable: no answer.
            Refused: the gateway will not do it.
        """
        body = action.model_dump(mode="json", exclude_none=True)
        try:
            async with asyncio.timeout(CALL_S):
                async with self._post(_ROUTES[kind], body) as answer:
                    content = await _checked(answer)
                    return schema.Operation.model_validate_json(content)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except ValidationError as error:
            raise Refused(f"not understood: {error}") from error

    async def keys(self) -> schema.KeyList:
        """Every key, and what it has spent.

        Raises:
            Unreachable: no answer.
            Refused: the gateway will not tell.
        """
        try:
            async with asyncio.timeout(CALL_S):
                async with self._live().get(self._url(schema.KEYS)) as answer:
                    return schema.KeyList.model_validate_json(await _checked(answer))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except ValidationError as error:
            raise Refused(f"not understood: {error}") from error

    async def events(self, after: int | None = None) -> AsyncGenerator[Message, None]:
        """The fleet: a snapshot, then what changes, until the connection ends.

        Raises:
            Unreachable: no connection, or `SILENCE_S` seconds without a byte.
            Refused: the gateway has no such stream for us.
        """
        headers = {"Accept": sse.CONTENT_TYPE}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S
        )
        parser = sse.SseParser()
        try:
            async with self._live().get(
                self._url(schema.EVENTS), headers=headers, timeout=timeout
            ) as answer:
                if answer.status >= 400:
                    await _checked(answer)
                async for chunk in answer.content.iter_any():
                    for message in parser.feed(chunk):
                        yield _decode(message)
                    yield None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise self._unreachable(error) from error
        raise Unreachable(f"{self.target.label} closed the connection")

    async def prompt(
        self, model: str, prompt: str, *, chat: bool, max_tokens: int
    ) -> AsyncGenerator[Piece, None]:
        """Stream one answer through the gateway's own public API.

        Greedy, so that the same model gives the same answer every time and speeds
        compare. Closing the iterator ends the request.

        Raises:
            Unreachable: the connection failed or fell silent.
            Refused: an error answer, or an error in the middle of the stream.
        """
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if chat:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        route = routes.V1_CHAT_COMPLETIONS if chat else routes.V1_COMPLETIONS
        parser = sse.SseParser()
        try:
            async with self._post(route, body, sock_read=120) as answer:
                if answer.status >= 400:
                    await _checked(answer)
                async for chunk in answer.content.iter_any():
                    for message in parser.feed(chunk):
                        if message.data != "[DONE]":
                            yield _piece(message)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise Refused(f"the answer is not understood: {error}") from error

    def _post(
        self, path: str, body: dict[str, Any], sock_read: float | None = None
    ) -> "aiohttp.client._RequestContextManager":
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_S, sock_read=sock_read
        )
        return self._live().post(self._url(path), json=body, timeout=timeout)

    def _live(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise Unreachable("not connected")
        return self._session

    def _url(self, path: str) -> str:
        return (self.target.url if not self.target.socket else "http://local") + path

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self.target.label} does not answer")
        return Unreachable(f"{self.target.label}: {_words(error)}")


def _words(error: Exception) -> str:
    """Why, as the operating system says it; aiohttp adds terms of its own."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


async def _checked(answer: aiohttp.ClientResponse) -> bytes:
    content = await answer.read()
    if answer.status >= 400:
        raise Refused(error_message(answer.status, content))
    return content


def _decode(message: sse.SseEvent) -> Message:
    """The item, by its event name; names of a later build are passed over."""
    if message.event == "snapshot":
        return schema.FleetSnapshot.model_validate_json(message.data)
    if message.event == "delta":
        return schema.FleetDelta.model_validate_json(message.data)
    if message.event == "event":
        return schema.FleetEvent.model_validate_json(message.data)
    return None


def _piece(message: sse.SseEvent) -> Piece:
    data = json.loads(message.data)
    if "error" in data:
        raise Refused(error_message(500, message.data.encode()))
    usage = data.get("usage") or {}
    choice = (data.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    text = choice.get("text") or delta.get("content") or delta.get("reasoning_content")
    return Piece(
        text or "", choice.get("finish_reason"), usage.get("completion_tokens")
    )
