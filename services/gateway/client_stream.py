"""The streamed answer to one client, opened when there is something to say."""

from aiohttp import web

from neuron.protocol.errors import ApiError
from services.gateway.sending import finish, send
from services.gateway.wording import Wording

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ClientStream:
    """Errors as those of `services.gateway.sending`."""

    def __init__(
        self, request: web.Request, wording: Wording, headers: dict[str, str]
    ) -> None:
        self.wording = wording
        self.response: web.StreamResponse | None = None
        self._request = request
        self._headers = headers

    async def open(self) -> web.StreamResponse:
        """The response, begun now if it has not begun yet."""
        if self.response is None:
            self.response = web.StreamResponse(headers={**_HEADERS, **self._headers})
            await self.response.prepare(self._request)
        return self.response

    async def comment(self, text: str) -> None:
        """Opens nothing where the dialect has no comments."""
        if words := self.wording.comment(text):
            await send(await self.open(), words)

    async def fail(self, error: ApiError) -> web.StreamResponse:
        """End it with an error."""
        response = await self.open()
        await finish(response, self.wording.fail(error))
        return response
