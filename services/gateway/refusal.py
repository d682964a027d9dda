"""What a neuron says instead of an answer."""

from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from neuron.protocol.errors import ApiError
from services.gateway import relay
from services.gateway.wording import told_error

ELSEWHERE = frozenset({404, 409, 429, 502, 503})
"""Statuses after which another replica, or the same one later, may do."""
_TOO_BUSY = 429
_DEADLY = frozenset({"worker_lost", "engine_failed"})
"""Codes that say: a worker died while it had this request."""


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    headers: dict[str, str]
    """Those that the client gets."""
    body: bytes

    @classmethod
    async def read(cls, upstream: aiohttp.ClientResponse) -> "Refusal":
        """
        Raises:
            UpstreamError: it broke off.
        """
        body = await relay.error_body(upstream)
        return cls(upstream.status, relay.response_headers(upstream), body)

    @property
    def too_busy(self) -> bool:
        return self.status == _TOO_BUSY

    @property
    def deadly(self) -> bool:
        error = self._error
        return isinstance(error, dict) and error.get("code") in _DEADLY

    def error(self) -> ApiError:
        """What it says, for a dialect to word."""
        after = self.headers.get("Retry-After", "")
        retry_after = float(after) if after.isdecimal() else None
        return told_error(self.status, self._error, retry_after)

    @property
    def _error(self) -> Any:
        try:
            return orjson.loads(self.body)["error"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None
