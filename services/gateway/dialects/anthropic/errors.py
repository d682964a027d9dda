"""Errors as Anthropic's clients expect them."""

import re
from typing import Final

from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json

_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES: Final = {422: 400, 503: 529}
"""Where Anthropic's API has another status for the same."""
_TOO_LONG: Final = re.compile(
    r"maximum context length is (\d+) tokens\..* came to (?:at least )?(\d+) tokens"
)


class Anthropic:
    """See `Dialect`."""

    stream_type = sse.CONTENT_TYPE

    def status(self, error: ApiError) -> int:
        return _STATUSES.get(error.status, error.status)

    def error(self, error: ApiError, request_id: str) -> Json:
        return {"type": "error", "error": worded(error), "request_id": request_id}

    def headers(self, request_id: str) -> dict[str, str]:
        return {"request-id": request_id}


def worded(error: ApiError) -> Json:
    """The `error` of the envelope; its `details` have our own code."""
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    return {
        "type": _TYPES.get(error.status, other),
        "message": _message(error),
        "details": {"error_code": error.code, **error.details},
    }


def _message(error: ApiError) -> str:
    """Agents look for the beginning of one, to make their conversation shorter."""
    if error.code != "context_length_exceeded":
        return error.message
    if numbers := _TOO_LONG.search(error.message):
        most, came = int(numbers[1]) - 1, numbers[2]
        return f"prompt is too long: {came} tokens > {most} maximum"
    return f"prompt is too long: {error.message}"
