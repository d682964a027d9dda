"""Messages of a chat request; `neuron.text.chat` makes prompts of them."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from neuron.worker.unsupported import UNSUPPORTED


class _Part(BaseModel):
    """Further fields are kept: templates read more than OpenAI's API has."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class FunctionCall(_Part):
    """`arguments` is JSON in a string; some clients send the object itself."""

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(_Part):
    """A call that the assistant made earlier."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


IMAGE_URL: Final = "image_url"
"""Type of a part that is an image."""

_TEXT_FIELDS: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Type of a part → its field with text."""


def _content(content: Any) -> Any:
    """Parts under the names that the chat templates' side knows."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("must be a string, a list of parts, or null")
    return [_part(part, index) for index, part in enumerate(content)]


def _part(part: Any, index: int) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f'part {index} must be an object such as {{"type": "text"}}')
    if kind == IMAGE_URL:
        # `neuron.worker.images` looks at it: it knows whether the model sees.
        return dict(part)
    if kind not in _TEXT_FIELDS:
        raise PydanticCustomError(
            UNSUPPORTED,
            "part {index} is of type '{kind}', which is not supported, only text and"
            " image_url are",
            {"index": index, "kind": kind},
        )
    field = _TEXT_FIELDS[kind]
    if not isinstance(part.get(field), str):
        raise ValueError(f"part {index} needs a string as its {field}")
    return {**part, "type": field}


class ChatMessage(_Part):
    """One turn; `developer` is what newer clients call `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | list[dict[str, Any]] | None, BeforeValidator(_content)] = (
        None
    )
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def as_sent(self) -> dict[str, Any]:
        """The message as it came, without what was left to its default."""
        return self.model_dump(exclude_unset=True)
