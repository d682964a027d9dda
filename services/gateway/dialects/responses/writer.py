"""A streamed response as the bytes of its events."""

import orjson

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json
from services.gateway.dialects.responses.assembly import Assembly


class Writer:
    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly

    def comment(self, text: str) -> bytes:
        return sse.comment(text)

    def chunk(self, chunk: Json) -> bytes:
        return _encoded(self._assembly.chunk(chunk))

    def end(self) -> bytes:
        return _encoded(self._assembly.end())

    def fail(self, error: ApiError) -> bytes:
        return _encoded(self._assembly.fail(error))


def _encoded(events: list[Json]) -> bytes:
    return b"".join(sse.encode(orjson.dumps(e), event=e["type"]) for e in events)
