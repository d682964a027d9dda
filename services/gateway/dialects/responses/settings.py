"""What a request says beside its input and its tools."""

from typing import Any, Final

from services.gateway.dialects.base import Json, streamed
from services.gateway.dialects.fields import (
    expect,
    no_effect,
    optional,
    refused,
    required,
    unsupported,
)
from services.gateway.dialects.responses.ignored import REASONING, TEXT, ignored, told

LOGPROBS: Final = "message.output_text.logprobs"
SEALED_THOUGHT: Final = "reasoning.encrypted_content"
_ALWAYS_INCLUDED: Final = "message.input_image.image_url"
_INCLUDABLE: Final = (LOGPROBS, SEALED_THOUGHT, _ALWAYS_INCLUDED)
_OF_HOSTED: Final = (
    "code_interpreter_call.", "computer_call_output.", "file_search_call.",
    "web_search_call.",
)  # fmt: skip
"""What hosted tools found: clients ask for it unasked, where they send such a tool."""

_PASSED: Final = (
    "allowed_token_ids", "bad_words", "chat_template_kwargs", "documents",
    "enable_thinking", "frequency_penalty", "ignore_eos", "logit_bias", "metadata",
    "min_p", "min_tokens", "model", "parallel_tool_calls", "presence_penalty",
    "prompt_cache_key", "repetition_penalty", "safety_identifier", "seed",
    "skip_special_tokens", "stop", "stop_token_ids", "temperature",
    "thinking_token_budget", "top_k", "top_p", "user",
)  # fmt: skip
"""Under the same name in the neuron's form, those beyond OpenAI's API included."""

_READ: Final = (
    "include", "input", "instructions", "max_output_tokens", "max_tool_calls",
    "previous_response_id", "reasoning", "store", "stream", "stream_options", "text",
    "tool_choice", "tools", "top_logprobs", "truncation",
)  # fmt: skip

_REFUSED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "background": ((None, False), "every response is made while the client waits"),
    "conversation": ((None,), "no conversations are kept here; send it as input"),
    "prompt": ((None, {}), "no prompt templates are kept here; send their text"),
    "context_management": ((None, []), "nothing is compacted here"),
    "moderation": ((None,), "nothing is moderated here"),
}
"""Field → what of it asks for nothing, and why the rest is refused."""

_WITHOUT_EFFECT: Final[dict[str, tuple[Any, ...]]] = {
    "service_tier": (None, "auto", "default"),
    "prompt_cache_retention": (None, "in_memory", "in-memory"),
    "prompt_cache_options": (None, {}, {"mode": "implicit"}),
}
"""Field → what of it asks for nothing; the rest is warned of."""

_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SUMMARIES: Final = ("auto", "concise", "detailed")
_FORMAT: Final = "text.format"


def translated(body: Json, warnings: list[str]) -> Json:
    """All of it in the neuron's form.

    Raises:
        ApiError: 400, something is malformed, or cannot be had here.
    """
    _refuse_what_cannot_be(body)
    _warn(body, warnings)
    settings = {
        name: body[name] for name in _PASSED if body.get(name) is not None
    } | _output_limit(body)
    if response_format := _response_format(body, warnings):
        settings["response_format"] = response_format
    if effort := _effort(body, warnings):
        settings["reasoning_effort"] = effort
    if wants_logprobs(body):
        settings["logprobs"] = True
        settings["top_logprobs"] = optional(body, "top_logprobs", int, "") or 0
    if body.get("stream") is True:
        settings |= streamed()
    return settings


def included(body: Json) -> list[str]:
    """What the answer is to tell beyond its items.

    Raises:
        ApiError: 400, it cannot be told.
    """
    names = optional(body, "include", list, "") or []
    for index, name in enumerate(names):
        place = f"include[{index}]"
        known = expect(name, str, place) in _INCLUDABLE
        if not known and not name.startswith(_OF_HOSTED):
            raise unsupported(place, f"'{name}' is not to be had here")
    return names


def wants_logprobs(body: Json) -> bool:
    return LOGPROBS in included(body) or bool(body.get("top_logprobs"))


def wants_summary(body: Json) -> bool:
    """Whether the thought is to be told as its summary.

    Raises:
        ApiError: 400, the wish is malformed.
    """
    reasoning = optional(body, "reasoning", dict, "") or {}
    wishes = []
    for name in ("summary", "generate_summary"):
        wish = optional(reasoning, name, str, "reasoning")
        if wish not in (None, *_SUMMARIES):
            raise refused(
                f"reasoning.{name}", f"should be one of {', '.join(_SUMMARIES)}"
            )
        wishes.append(wish)
    return any(wishes)


def _refuse_what_cannot_be(body: Json) -> None:
    for name, (neutral, why) in _REFUSED.items():
        if body.get(name) not in neutral:
            raise unsupported(name, why)
    options = optional(body, "stream_options", dict, "") or {}
    if options.get("include_obfuscation"):
        raise unsupported(
            "stream_options.include_obfuscation", "streams are not padded"
        )
    optional(body, "instructions", str, "")
    optional(body, "store", bool, "")
    optional(body, "stream", bool, "")
    optional(body, "max_tool_calls", int, "")
    metadata = optional(body, "metadata", dict, "") or {}
    for key, value in metadata.items():
        expect(value, str, f"metadata.{key}")


def _warn(body: Json, warnings: list[str]) -> None:
    for name, neutral in _WITHOUT_EFFECT.items():
        if body.get(name) not in neutral:
            warnings.append(no_effect(name))
    match optional(body, "truncation", str, ""):
        case None | "disabled":
            pass
        case "auto":
            warnings.append("truncation: nothing is dropped from a long conversation")
        case _:
            raise refused("truncation", "should be auto or disabled")
    for index, name in enumerate(included(body)):
        if name.startswith(_OF_HOSTED):
            warnings.append(f"include[{index}]: there are no hosted tools here")
    known = {*_PASSED, *_READ, *_REFUSED, *_WITHOUT_EFFECT}
    warnings += [no_effect(name) for name in body if name not in known]


def _output_limit(body: Json) -> Json:
    limit = optional(body, "max_output_tokens", int, "")
    if limit is None:
        return {}
    if limit < 1:
        raise refused("max_output_tokens", "should be at least 1")
    return {"max_completion_tokens": limit}


def _effort(body: Json, warnings: list[str]) -> str | None:
    reasoning = optional(body, "reasoning", dict, "") or {}
    effort = optional(reasoning, "effort", str, "reasoning")
    if effort not in (None, *_EFFORTS):
        raise refused("reasoning.effort", f"should be one of {', '.join(_EFFORTS)}")
    neutral = {"context": (None, "auto"), "mode": (None, "standard")}
    for name, values in neutral.items():
        if reasoning.get(name) not in values:
            warnings.append(no_effect(f"reasoning.{name}"))
    warnings += told("reasoning", ignored(reasoning, REASONING))
    return effort


def _response_format(body: Json, warnings: list[str]) -> Json | None:
    text = optional(body, "text", dict, "") or {}
    if optional(text, "verbosity", str, "text") not in (None, "medium"):
        warnings.append(no_effect("text.verbosity"))
    warnings += told("text", ignored(text, TEXT))
    format_ = optional(text, "format", dict, "text")
    if format_ is None:
        return None
    match required(format_, "type", str, _FORMAT):
        case "text" | "json_object" as kind:
            return {"type": kind}
        case "json_schema":
            return {"type": "json_schema", "json_schema": _json_schema(format_)}
        case kind:
            kinds = "text, json_object and json_schema"
            raise refused(f"{_FORMAT}.type", f"'{kind}' is none of {kinds}")


def _json_schema(format_: Json) -> Json:
    schema: Json = {
        "name": required(format_, "name", str, _FORMAT),
        "schema": required(format_, "schema", dict, _FORMAT),
    }
    if (description := optional(format_, "description", str, _FORMAT)) is not None:
        schema["description"] = description
    if (strict := optional(format_, "strict", bool, _FORMAT)) is not None:
        schema["strict"] = strict
    return schema
