"""What a chat template takes, found out by rendering small conversations with it.

A template that is handed what it does not expect often does not fail: it prints a list
of parts as Python would, or loops over the characters of a string. So it is tried, once
for each question, when the question first comes up.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from neuron.text import conversation
from neuron.text.compiled_template import CompiledTemplate, TemplateError
from neuron.text.conversation import CallContent, ContentStyle, Message
from neuron.text.template_bounds import RenderLimits

_FIRST: Final = "needleone"
_SECOND: Final = "needletwo"
_QUOTES: Final = ("'", '"')
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_LIMITS: Final = RenderLimits(seconds=0.5, value=1 << 20, total=16 << 20)


@dataclass(frozen=True, slots=True)
class CallStyle:
    """What a template takes as a message that calls tools."""

    content: CallContent = "absent"
    arguments_as_text: bool = False
    """JSON strings instead of objects."""
    shown: bool = True
    """Whether it shows calls at all."""

    def apply(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in this style."""
        messages = conversation.with_call_content(messages, self.content)
        return conversation.with_arguments(messages, as_text=self.arguments_as_text)


class TemplateTraits:
    """Answers about one template; safe to share between threads."""

    def __init__(
        self, template: CompiledTemplate, special_tokens: Mapping[str, str]
    ) -> None:
        self._template = template
        self._special_tokens = special_tokens
        self._styles: dict[str, ContentStyle] = {}
        self._calls: CallStyle | None = None
        self.knows_developer = any(
            quote + "developer" + quote in template.source for quote in _QUOTES
        )

    def content_style(self, role: str) -> ContentStyle:
        """Whether content of `role` may be a string, parts, or either."""
        if role not in _ROLES:
            role = "user"
        if (style := self._styles.get(role)) is None:
            style = self._styles[role] = self._find_style(role)
        return style

    def _find_style(self, role: str) -> ContentStyle:
        text = self._try(self._with_content(role, _FIRST))
        parts = self._try(
            self._with_content(
                role, [{"type": "text", "text": word} for word in (_FIRST, _SECOND)]
            )
        )
        takes_text = _FIRST in text
        if _FIRST not in parts or _is_quoted(_FIRST, parts):
            return "text"
        if _SECOND not in parts:
            return "text" if takes_text else "part"
        return "either" if takes_text else "parts"

    def _with_content(self, role: str, content: Any) -> list[Message]:
        message = {"role": role, "content": content}
        if role == "user":
            return [message]
        user = self._styled(_USER)
        if role == "assistant":
            return [user, message, user]
        if role == "tool":
            result = {**message, "tool_call_id": _ID, "name": _NAME}
            answer = self._styled({"role": "assistant", "content": "Hi"})
            return [user, _call(self.calls) if self.calls.shown else answer, result]
        return [message, user]

    def _styled(self, message: Message) -> Message:
        """A message as it would be from a user."""
        style = self.content_style("user")
        return conversation.with_content([message], lambda _: style)[0]

    @property
    def calls(self) -> CallStyle:
        """How messages that call tools must look to be seen."""
        if self._calls is None:
            self._calls = self._find_calls()
        return self._calls

    def _find_calls(self) -> CallStyle:
        contents: tuple[CallContent, ...] = ("absent", "null", "empty")
        for tools in (None, [_TOOL]):
            for content in contents:
                for as_text in (False, True):
                    style = CallStyle(content, arguments_as_text=as_text)
                    if self._shows(style, tools):
                        return style
        return CallStyle(shown=False)

    def _shows(self, style: CallStyle, tools: Sequence[Message] | None) -> bool:
        text = self._try(
            [self._styled(_USER), _call(style), self._styled(_RESULT)], tools
        )
        if f"'{_FIRST}'" in text or (style.content == "null" and "None" in text):
            return False  # Python's spelling, which no model has been trained on.
        wanted = json.dumps(_ARGUMENTS) if style.arguments_as_text else _FIRST
        return _NAME in text and wanted in text

    def _try(
        self, messages: Sequence[Message], tools: Sequence[Message] | None = None
    ) -> str:
        """What it renders; nothing where it refuses."""
        context = {
            **self._special_tokens,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": False,
        }
        try:
            return self._template.render(context, _LIMITS)
        except TemplateError:
            return ""


def _is_quoted(word: str, text: str) -> bool:
    return any(quote + word + quote in text for quote in _QUOTES)


_ID: Final = "probe0001"
_NAME: Final = "probefunction"
_ARGUMENTS: Final = {_FIRST: _SECOND}
_USER: Final[Message] = {"role": "user", "content": "Hi"}
_RESULT: Final[Message] = {
    "role": "tool", "content": "1", "tool_call_id": _ID, "name": _NAME,
}  # fmt: skip

_TOOL: Final[Message] = {
    "type": "function",
    "function": {
        "name": "other",
        "description": "Other",
        "parameters": {"type": "object", "properties": {}},
    },
}
"""Some templates show calls only where tools are declared."""


def _call(style: CallStyle) -> Message:
    function = {"name": _NAME, "arguments": _ARGUMENTS}
    call = {"id": _ID, "type": "function", "function": function}
    return style.apply([{"role": "assistant", "tool_calls": [call]}])[0]
