"""The one error that crosses HTTP, in the OpenAI envelope."""

from dataclasses import dataclass, field
from typing import Any, Final

_LONGEST_WAIT_S: Final = 120
"""What takes longer a client should tell: SDKs wait in silence, for days if need be."""


@dataclass(slots=True)
class ApiError(Exception):
    """An answer that says what was wrong and what would be right.

    `status` is the HTTP status; `code` is the machine-readable reason
    (`model_not_found`, `context_length_exceeded`, `shutting_down`, …); `param` names
    the offending field; `retry_after` is in seconds and becomes the `Retry-After`
    header; `details` holds further members of the envelope, such as the numbers behind
    a refusal.
    """

    status: int
    message: str
    code: str
    type: str = "invalid_request_error"
    param: str | None = None
    retry_after: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def envelope(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "code", "param", …}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "code": self.code,
                "param": self.param,
                **self.details,
            }
        }

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, at least one, where a retry makes sense, and
        what keeps SDKs from waiting for too long; and with which scheme to
        authenticate, where that is what it takes."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
            if self.retry_after > _LONGEST_WAIT_S:
                headers["X-Should-Retry"] = "false"
        return headers


def model_not_found(model: str, known: list[str]) -> ApiError:
    """404 that lists up to ten of the models which would have been right."""
    listed = ", ".join(sorted(known)[:10]) or "none"
    return ApiError(
        404,
        f"model '{model}' does not exist; available: {listed}",
        code="model_not_found",
        param="model",
    )


def overloaded(message: str, retry_after: float) -> ApiError:
    """429: the queue is full; the same request will fit later."""
    return ApiError(
        429,
        message,
        code="rate_limit_exceeded",
        type="rate_limit_error",
        retry_after=retry_after,
    )


def shutting_down(retry_after: float = 15) -> ApiError:
    """503: this process drains and takes no new work."""
    return ApiError(
        503,
        "the server is shutting down; retry later or elsewhere",
        code="shutting_down",
        type="server_error",
        retry_after=retry_after,
    )


def unavailable(
    message: str, code: str = "service_unavailable", retry_after: float = 3
) -> ApiError:
    """503: nothing is wrong with the request, but nobody can serve it now."""
    return ApiError(
        503, message, code=code, type="server_error", retry_after=retry_after
    )
