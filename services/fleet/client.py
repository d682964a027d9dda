"""HTTP client of the neuron API."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from pydantic import ValidationError
from yarl import URL

from neuron.protocol import bearer, routes, sse
from neuron.protocol.errors import ApiError
from neuron.protocol.types import (
    Discovery,
    Event,
    Health,
    LoadPlan,
    LoadProgress,
    LoadRequest,
    LoadResult,
    Model,
    ModelList,
    UnloadRequest,
    UnloadResult,
    Version,
    Wire,
)

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 2.5
"""For what a neuron answers from its caches."""
PLAN_TIMEOUT_S = 10.0
EVENTS_IDLE_S = 60.0
INSUFFICIENT_MEMORY = 507
"""Status of a load that does not fit."""
_STATUS_OF_FAILED_LOAD = {
    "insufficient_memory": INSUFFICIENT_MEMORY,
    "model_unloading": 409,
    "shutting_down": 503,
}
MAX_ANSWER_BYTES = 64 * 1024 * 1024

W = TypeVar("W", bound=Wire)


class NodeError(Exception):
    """The neuron could not be reached, or answered something that is no answer."""


def new_session() -> aiohttp.ClientSession:
    """A session for neurons: no limits, no cookies, no proxies, bytes as they come."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
        trust_env=False,
    )


class NodeClient:
    """Speaks to one neuron; `endpoint` and `token` may change while it lives."""

    def __init__(
        self, session: aiohttp.ClientSession, endpoint: str, token: str | None = None
    ) -> None:
        self.session = session
        self.endpoint = endpoint
        self.token = token

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates the gateway to this neuron."""
        return bearer.header(self.token)

    def url(self, path: str) -> URL:
        """The neuron's URL for an already encoded `path`."""
        return URL(self.endpoint + path, encoded=True)

    async def discovery(self) -> Discovery:
        return await self._get(routes.DISCOVERY, Discovery)

    async def health(self) -> Health:
        return await self._get(routes.HEALTH, Health)

    async def version(self) -> Version:
        return await self._get(routes.VERSION, Version)

    async def models(self) -> list[Model]:
        return (await self._get(routes.MODELS, ModelList)).models

    async def plan(self, request: LoadRequest) -> LoadPlan:
        """What a load would need.

        Raises:
            ApiError: the neuron refuses the request.
            NodeError: there is no answer.
        """
        return await self._post(routes.MODELS_PLAN, request, LoadPlan, PLAN_TIMEOUT_S)

    async def unload(self, request: UnloadRequest, timeout: float) -> UnloadResult:
        """Returns once the memory is back; errors as those of `plan`."""
        return await self._post(routes.MODELS_UNLOAD, request, UnloadResult, timeout)

    async def load(
        self,
        request: LoadRequest,
        on_progress: Callable[[LoadProgress], None],
        idle_timeout: float,
    ) -> LoadResult:
        """Load a model and report its progress; errors as those of `plan`."""
        headers = {"Accept": sse.CONTENT_TYPE}
        async with self._request(
            "POST", routes.MODELS_LOAD, idle_timeout, request, headers
        ) as response:
            if response.content_type != sse.CONTENT_TYPE:
                return self._parse(LoadResult, await self._read(response))
            async for event in self._events_of(response):
                result = _load_event(event, on_progress)
                if result is not None:
                    return result
        raise NodeError("the neuron ended the load's stream without a result")

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Event]]:
        """GET /events, open; iterate to receive.

        Raises:
            NodeError: it cannot be opened, or breaks.
        """
        async with self._request("GET", routes.EVENTS, EVENTS_IDLE_S) as response:
            yield self._parsed_events(response)

    async def _parsed_events(
        self, response: aiohttp.ClientResponse
    ) -> AsyncIterator[Event]:
        async for event in self._events_of(response):
            yield self._parse(Event, event.data.encode())

    async def _events_of(
        self, response: aiohttp.ClientResponse
    ) -> AsyncIterator[sse.SseEvent]:
        parser = sse.SseParser()
        try:
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    yield event
        except ValueError as error:
            raise NodeError(str(error)) from error

    async def _get(self, path: str, kind: type[W]) -> W:
        async with self._request("GET", path, ANSWER_TIMEOUT_S) as response:
            return self._parse(kind, await self._read(response))

    async def _post(self, path: str, body: Wire, kind: type[W], timeout: float) -> W:
        async with self._request("POST", path, timeout, body) as response:
            return self._parse(kind, await self._read(response))

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        idle_timeout: float,
        body: Wire | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if not self.endpoint:
            raise NodeError("it is not running yet")
        try:
            async with self.session.request(
                method,
                self.url(path),
                data=None if body is None else body.model_dump_json(exclude_none=True),
                headers={
                    "Content-Type": "application/json",
                    **(headers or {}),
                    **self.headers,
                },
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_timeout
                ),
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise api_error(response.status, await self._read(response))
                yield response
        except TimeoutError as error:
            raise NodeError(f"no answer to {path} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeError(f"{path}: {str(error) or type(error).__name__}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise NodeError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        return bytes(body)

    def _parse(self, kind: type[W], body: bytes) -> W:
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise NodeError(
                f"an answer that is no {kind.__name__}: {where} {first['msg']}"
            ) from error


def api_error(status: int, body: bytes) -> ApiError:
    """The error in an answer's body, or what can be said without one."""
    try:
        error = json.loads(body)["error"]
        known = {"message", "type", "code", "param"}
        return ApiError(
            status,
            str(error["message"]),
            code=str(error.get("code") or "neuron_error"),
            type=str(error.get("type") or "server_error"),
            param=error.get("param"),
            details={key: error[key] for key in error if key not in known},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(
            status,
            f"the neuron answered HTTP {status} without a reason",
            code="neuron_error",
            type="server_error",
        )


def _failed_load(body: bytes) -> ApiError:
    """An error told in a stream, which has no status of its own."""
    error = api_error(500, body)
    error.status = _STATUS_OF_FAILED_LOAD.get(error.code, error.status)
    return error


def _load_event(
    event: sse.SseEvent, on_progress: Callable[[LoadProgress], None]
) -> LoadResult | None:
    """The result where `event` carries it; progress is reported, an error raised."""
    try:
        data: Any = json.loads(event.data)
    except ValueError as error:
        raise NodeError("an event of the load that is not JSON") from error
    if not isinstance(data, dict):
        raise NodeError("an event of the load that is no object")
    if "error" in data:
        raise _failed_load(event.data.encode())
    try:
        if isinstance(data.get("model"), dict):
            return LoadResult.model_validate(data)
        if "stage" in data:
            on_progress(LoadProgress.model_validate(data))
    except ValidationError as error:
        raise NodeError("an event of the load with fields of wrong types") from error
    return None
