"""Requests of /api/chat and /api/generate in the internal form."""

from collections.abc import Callable
from typing import Final

from neuron.protocol import routes
from services.gateway.dialects.base import Json, streamed
from services.gateway.dialects.fields import (
    no_effect,
    objects,
    optional,
    refused,
    required,
    unsupported,
)
from services.gateway.dialects.ollama.answer import OllamaTranslation
from services.gateway.dialects.ollama.durations import keep_alive
from services.gateway.dialects.ollama.images import image_parts
from services.gateway.dialects.ollama.lines import Said, as_message, as_response
from services.gateway.dialects.ollama.messages import message_of, messages_of
from services.gateway.dialects.ollama.options import options_of

_COMMON: Final = frozenset({
    "model", "stream", "format", "options", "keep_alive", "think", "logprobs",
    "top_logprobs", "truncate", "shift",
})  # fmt: skip
_CHAT: Final = _COMMON | {"messages", "tools", "tool_choice"}
_NOT_HERE: Final = {
    "suffix": "no model here writes what is between two texts",
    "template": "the model's own is used, and with raw none",
    "context": "send the whole conversation to /api/chat",
    "width": "no model here makes images",
    "height": "no model here makes images",
    "steps": "no model here makes images",
}
"""Of /api/generate."""
_NOT_RAW: Final = {
    "system": "make it part of the prompt",
    "images": "leave raw out",
    "think": "leave raw out",
}
"""With `raw`, which takes the prompt as it is."""
_GENERATE: Final = _COMMON | _NOT_HERE.keys() | _NOT_RAW.keys() | {"prompt", "raw"}
_EFFORTS: Final = ("low", "medium", "high", "max")
_NEVER: Final = {
    "truncate": "a prompt that is too long is refused, not cut",
    "shift": "an answer ends where the context does",
}


def translate_chat(body: Json) -> OllamaTranslation:
    """POST /api/chat. `tool_choice` is OpenAI's; Ollama itself has none.

    Raises:
        ApiError: 400, it is malformed, or asks for what there is not.
    """
    warnings = _without_effect(body, _CHAT)
    fields = {
        **_common(body, warnings),
        **_thinking(body),
        **_scored(body),
        "messages": messages_of(body),
    }
    if tools := [{"type": "function"} | tool for _, tool in objects(body, "tools", "")]:
        fields["tools"] = tools
    if body.get("tool_choice") is not None:
        fields["tool_choice"] = body["tool_choice"]
    return _translation(routes.V1_CHAT_COMPLETIONS, fields, body, warnings, as_message)


def translate_generate(body: Json) -> OllamaTranslation:
    """POST /api/generate: a chat of one message, or with `raw` a prompt as it is.

    Raises:
        ApiError: as `translate_chat`.
    """
    warnings = _without_effect(body, _GENERATE)
    for name, instead in _NOT_HERE.items():
        if body.get(name):
            raise unsupported(name, f"not supported; {instead}")
    fields = _common(body, warnings)
    prompt = optional(body, "prompt", str, "") or ""
    if optional(body, "raw", bool, ""):
        fields |= _raw(body, prompt)
        path = routes.V1_COMPLETIONS
    else:
        fields |= _thinking(body) | _scored(body)
        question = message_of("user", prompt, image_parts(body, ""))
        fields["messages"] = [*_system(body), question]
        path = routes.V1_CHAT_COMPLETIONS
    return _translation(path, fields, body, warnings, as_response)


def _without_effect(body: Json, known: frozenset[str]) -> list[str]:
    warnings = [no_effect(name) for name in body if name not in known]
    for name, instead in _NEVER.items():
        if optional(body, name, bool, ""):
            warnings.append(f"{name}: {instead}")
    return warnings


def _common(body: Json, warnings: list[str]) -> Json:
    """What chats and texts have in common."""
    fields: Json = {"model": required(body, "model", str, "")}
    if optional(body, "stream", bool, "") is not False:
        fields |= streamed()
    return fields | options_of(body, warnings) | _format(body)


def _format(body: Json) -> Json:
    match body.get("format"):
        case None | "":
            return {}
        case "json":
            return {"response_format": {"type": "json_object"}}
        case dict() as schema:
            wrapped = {"name": "format", "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": wrapped}}
        case _:
            raise refused("format", 'should be "json" or a JSON schema')


def _thinking(body: Json) -> Json:
    match body.get("think"):
        case None:
            return {}
        case bool() as wanted:
            return {"enable_thinking": wanted}
        case str() as effort if effort in _EFFORTS:
            return {"enable_thinking": True, "reasoning_effort": effort}
        case _:
            raise refused(
                "think", f"should be true, false, or one of {', '.join(_EFFORTS)}"
            )


def _scored(body: Json) -> Json:
    """Log-probabilities of a chat's answer."""
    fields: Json = {}
    if (wanted := optional(body, "logprobs", bool, "")) is not None:
        fields["logprobs"] = wanted
    if (top := optional(body, "top_logprobs", int, "")) is not None:
        fields["top_logprobs"] = top
    return fields


def _raw(body: Json, prompt: str) -> Json:
    """The fields of a text completion."""
    for name, instead in _NOT_RAW.items():
        if body.get(name):
            raise unsupported(name, f"not supported together with raw; {instead}")
    fields: Json = {"prompt": prompt}
    top = optional(body, "top_logprobs", int, "")
    if optional(body, "logprobs", bool, ""):
        fields["logprobs"] = top or 0
    elif top:
        raise refused("top_logprobs", "needs logprobs to be true")
    return fields


def _system(body: Json) -> list[Json]:
    text = optional(body, "system", str, "")
    return [message_of("system", text, [])] if text else []


def _translation(
    path: str,
    fields: Json,
    body: Json,
    warnings: list[str],
    word: Callable[[Said], Json],
) -> OllamaTranslation:
    return OllamaTranslation(
        path,
        fields,
        warnings,
        asked=fields["model"],
        word=word,
        keep_alive=keep_alive(body.get("keep_alive")),
    )
