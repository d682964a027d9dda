"""OpenAI's messages as chat templates take them; pure functions, nothing in place.

Templates are written for what transformers hands them. A client's message may differ:
arguments of tool calls as a JSON string, content in parts, nulls, a `developer`. Each
function here undoes one such difference and leaves every other field as it is.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from neuron.text.compiled_template import TemplateError

Message = Mapping[str, Any]
"""`role`, `content` (a string, a list of parts, or null), and what else there is."""

ContentStyle = Literal["text", "part", "parts", "either"]
"""What a template takes as a message's content: a string, a list of one part, a list of
parts, or a string as well as parts."""

CallContent = Literal["absent", "null", "empty"]
"""What a template takes as the content of a message that only calls tools."""

Declarations = Literal["variable", "system", "none"]
"""Where a template looks for the tools: in the variable of that name, in the system
message under that name, or nowhere."""

_SHORT: Final = 9

IMAGE: Final = "image"
"""Type of a part that stands for an image, whose file is kept elsewhere."""

_TEXTS: Final = {"text": "text", "refusal": "refusal"}
"""Types of part that are text, and the field that has it."""

_REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""What a message's reasoning may be called; the first is what templates read."""


class ConversationError(TemplateError):
    """No template could take this; `param` names the place."""


def check_parts(messages: Sequence[Message]) -> None:
    """See that all content is text, or stands for an image.

    Raises:
        ConversationError: content of another kind, such as a file, or malformed.
    """
    for index, message in enumerate(messages):
        content = message.get("content")
        place = f"messages[{index}].content"
        if isinstance(content, list):
            for number, part in enumerate(content):
                _check_part(part, f"{place}[{number}]")
        elif content is not None and not isinstance(content, str):
            raise ConversationError(
                f"{place}: must be a string, a list of parts, or null", param=place
            )


def _check_part(part: object, place: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise ConversationError(
            f"{place}: must be an object with a type, such as"
            ' {"type": "text", "text": "…"}',
            param=place,
        )
    if kind == IMAGE:
        return
    if kind not in _TEXTS:
        raise ConversationError(
            f"{place}: content of type {kind} is not supported, only text", param=place
        )
    if not isinstance(part.get(_TEXTS[kind]), str):
        raise ConversationError(
            f"{place}.{_TEXTS[kind]}: must be a string", param=f"{place}.{_TEXTS[kind]}"
        )


def without_nulls(messages: Sequence[Message]) -> list[Message]:
    """Fields that are null are left out, as transformers does it."""
    return [
        {name: value for name, value in message.items() if value is not None}
        for message in messages
    ]


def with_reasoning_names(messages: Sequence[Message]) -> list[Message]:
    """Reasoning under each name that templates read, as transformers does it."""
    renamed: list[Message] = []
    for message in messages:
        given = [message[name] for name in _REASONING if message.get(name) is not None]
        if given:
            message = {"thinking": given[0], **message, "reasoning_content": given[0]}
        renamed.append(message)
    return renamed


def developer_as_system(messages: Sequence[Message]) -> list[Message]:
    """For templates that know no `developer`."""
    return [
        {**message, "role": "system"} if message.get("role") == "developer" else message
        for message in messages
    ]


def with_arguments(
    messages: Sequence[Message], *, as_text: bool = False
) -> list[Message]:
    """Arguments of tool calls as objects, or all as JSON strings.

    A string that is no JSON object stays as it is; an empty one is the empty object.
    """
    convert = _arguments_text if as_text else _arguments_object
    return [_with_calls(message, convert) for message in messages]


def unparsed_arguments(messages: Sequence[Message]) -> list[str]:
    """The places whose arguments are still strings."""
    return [
        f"messages[{index}].tool_calls[{number}].function.arguments"
        for index, message in enumerate(messages)
        for number, call in enumerate(_calls(message))
        if isinstance(call, Mapping)
        and isinstance(call.get("function"), Mapping)
        and isinstance(call["function"].get("arguments"), str)
    ]


def has_calls(messages: Sequence[Message]) -> bool:
    """Whether tools were called."""
    return any(_calls(message) for message in messages)


def _calls(message: Message) -> list[Any]:
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _with_calls(message: Message, convert: Callable[[Any], Any]) -> Message:
    if not _calls(message):
        return message
    return {
        **message,
        "tool_calls": [_with_call(call, convert) for call in _calls(message)],
    }


def _with_call(call: Any, convert: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    converted = {**function, "arguments": convert(function["arguments"])}
    return {**call, "function": converted}


def _arguments_object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _arguments_text(arguments: Any) -> Any:
    if isinstance(arguments, str):
        return arguments if arguments.strip() else "{}"
    return json.dumps(arguments, ensure_ascii=False)


def with_content(
    messages: Sequence[Message], style: Callable[[str], ContentStyle]
) -> list[Message]:
    """Content as the template takes it for each role.

    Parts become one string, a line each, for a template that takes only strings; a
    string becomes one part for a template that takes only parts. Without content, a
    message stays as it is. Only parts can be images: they are lost otherwise.
    """
    return [
        _with_content(message, style(str(message.get("role")))) for message in messages
    ]


def _with_content(message: Message, style: ContentStyle) -> Message:
    content = message.get("content")
    if content is None or (isinstance(content, str) and style in ("text", "either")):
        return message
    if isinstance(content, list) and style in ("parts", "either"):
        return {**message, "content": [_text_part(part) for part in content]}
    text = "\n".join(texts(message))
    whole = text if style == "text" else [{"type": "text", "text": text}]
    return {**message, "content": whole}


def _text_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part["type"] in ("text", IMAGE):
        return part
    rest = {name: value for name, value in part.items() if name != "refusal"}
    return {**rest, "type": "text", "text": part["refusal"]}


def texts(message: Message) -> list[str]:
    """The text of each part that has one, or of the whole."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    parts = (part for part in content or () if part["type"] != IMAGE)
    return [part[_TEXTS[part["type"]]] for part in parts]


def late_system(messages: Sequence[Message]) -> list[Message]:
    """System messages that are not the first message."""
    return [message for message in messages[1:] if message.get("role") == "system"]


def with_one_system(messages: Sequence[Message]) -> list[Message]:
    """All system messages in one that leads, blank lines between them."""
    system = [message for message in messages if message.get("role") == "system"]
    if not system:
        return list(messages)
    merged = {key: value for message in system[::-1] for key, value in message.items()}
    merged["content"] = "\n\n".join("\n".join(texts(message)) for message in system)
    others = [message for message in messages if message.get("role") != "system"]
    return [merged, *others]


def with_call_content(messages: Sequence[Message], form: CallContent) -> list[Message]:
    """Tool calls without content, in the form that the template expects."""
    if form == "absent":
        return list(messages)
    content = None if form == "null" else ""
    return [
        {**message, "content": content}
        if _calls(message) and "content" not in message
        else message
        for message in messages
    ]


def with_calls_as_metadata(messages: Sequence[Message]) -> list[Message]:
    """Calls and results as GLM-4 has them: a message for each call, with the name as
    its `metadata` and the arguments as its content, and an `observation`."""
    shown: list[Message] = []
    for message in messages:
        if message.get("role") == "tool":
            message = {**message, "role": "observation"}
        if not (calls := _calls(message)):
            shown.append(message)
            continue
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        if any(texts(message)):
            shown.append(rest)
        for call in calls:
            function = call["function"]
            arguments = _arguments_text(function.get("arguments") or "")
            shown.append({**rest, "metadata": function["name"], "content": arguments})
    return shown


def with_tools_in_system(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> list[Message]:
    """The tools' JSON as `tools` of the system message, as Phi-4-mini has them."""
    functions = [tool.get("function", tool) for tool in tools]
    first, *others = messages
    if first.get("role") not in ("system", "developer"):
        first, others = {"role": "system", "content": ""}, [*messages]
    return [{**first, "tools": json.dumps(functions, ensure_ascii=False)}, *others]


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of tool calls as nine letters and digits, the same for the same id."""
    return [_with_short_ids(message) for message in messages]


def _with_short_ids(message: Message) -> Message:
    if isinstance(call_id := message.get("tool_call_id"), str):
        message = {**message, "tool_call_id": _short(call_id)}
    if _calls(message):
        calls = [
            {**call, "id": _short(call["id"])}
            if isinstance(call, Mapping) and isinstance(call.get("id"), str)
            else call
            for call in _calls(message)
        ]
        message = {**message, "tool_calls": calls}
    return message


def _short(call_id: str) -> str:
    if len(call_id) == _SHORT and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:_SHORT]
