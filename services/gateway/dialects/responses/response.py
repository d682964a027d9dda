"""The response object: what it says of its request, its usage, its failure."""

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json
from services.gateway.dialects.usage import Usage

_TOLD = {"rate_limit_exceeded", "context_length_exceeded"}
_ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "previous_response_id",
    "prompt_cache_key", "safety_identifier", "temperature", "top_p", "user",
)  # fmt: skip


def new_response(body: Json, id_: str, created_at: int, *, stored: bool) -> Json:
    """In progress, with all that its request said. What it left to the model's own
    settings is null: the gateway does not know those."""
    reasoning = body.get("reasoning") or {}
    text = body.get("text") or {}
    return {
        "id": id_,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": [],
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "reasoning": {
            "effort": reasoning.get("effort"),
            "summary": reasoning.get("summary") or reasoning.get("generate_summary"),
        },
        "service_tier": "default",
        "store": stored,
        "text": {
            "format": text.get("format") or {"type": "text"},
            "verbosity": text.get("verbosity") or "medium",
        },
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "truncation": "disabled",
        "usage": None,
        **{name: body.get(name) for name in _ECHOED},
    }


def usage_of(usage: Usage) -> Json:
    """The neuron's count in the words of a response."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cached,
            # Nothing here is written at a price, which is what this counts.
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def failure(error: ApiError) -> Json:
    """`error` of a response that failed."""
    if error.code in _TOLD:
        code = error.code
    else:
        code = "server_error" if error.status >= 500 else "invalid_prompt"
    return {
        "code": code,
        "message": error.message,
        "type": error.type,
        "param": error.param,
    }
