"""What a chat template takes, found out by rendering small conversations with it.

A template that is handed what it does not expect often does not fail: it prints a list
of parts as Python would, or loops over the characters of a string. So it is tried, once
for each question, when the question first comes up.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from neuron.text import conversation
from neuron.text.compiled_template import CompiledTemplate, TemplateError
from neuron.text.conversation import (
    CallContent,
    ContentStyle,
    Declarations,
    Message,
)
from neuron.text.template_bounds import RenderLimits

_FIRST: Final = "needleone"
_SECOND: Final = "needletwo"
_QUOTES: Final = ("'", '"')
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_LIMITS: Final = RenderLimits(seconds=0.5, value=1 << 20, total=16 << 20)
_SECONDS: Final = 2.0
"""For all that is tried with one template; one that takes longer is told as little as
one that refuses."""


@dataclass(frozen=True, slots=True)
class CallStyle:
    """What a template takes as a message that calls tools."""

    content: CallContent = "absent"
    arguments_as_text: bool = False
    """JSON strings instead of objects."""
    as_metadata: bool = False
    """The name as `metadata` of a message whose content are the arguments."""
    shown: bool = True
    """Whether it shows calls at all."""

    def apply(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in this style."""
        if self.as_metadata:
            return conversation.with_calls_as_metadata(messages)
        messages = conversation.with_call_content(messages, self.content)
        return conversation.with_arguments(messages, as_text=self.arguments_as_text)


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """What a template shows of tools."""

    declarations: Declarations = "variable"
    history: bool = True
    """Both calls of earlier turns and their results."""


class TemplateTraits:
    """Answers about one template; safe to share between threads."""

    def __init__(
        self, template: CompiledTemplate, special_tokens: Mapping[str, str]
    ) -> None:
        self._template = template
        self._special_tokens = special_tokens
        self._styles: dict[str, ContentStyle] = {}
        self._calls: CallStyle | None = None
        self._tools: ToolSupport | None = None
        self._seconds = _SECONDS
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
        text = self._with_content(role, _FIRST)
        parts = self._with_content(
            role, [{"type": "text", "text": word} for word in (_FIRST, _SECOND)]
        )
        takes_text = _FIRST in text
        if _FIRST not in parts or _is_quoted(_FIRST, parts):
            return "text"
        if _SECOND not in parts:
            return "text" if takes_text else "part"
        return "either" if takes_text else "parts"

    def _with_content(self, role: str, content: Any) -> str:
        """What becomes of a message with this content."""
        message = {"role": role, "content": content}
        if role == "user":
            return self._try([message])
        user = self._styled(_USER)
        if role == "assistant":
            return self._try([user, message, user])
        if role == "tool":
            return self._with_result(message)
        return self._try([message, user])

    def _with_result(self, message: Message) -> str:
        result = {**message, "tool_call_id": _ID, "name": _NAME}
        answer = {"role": "assistant", "content": "Hi"}
        before = _CALL if self.calls.shown else self._styled(answer)
        messages = self.calls.apply([self._styled(_USER), before, result])
        return self._try(messages) or self._try(messages, [_TOOL])

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
        for tools in (None, [_TOOL]):
            for style in _STYLES:
                if self._shows(style, tools):
                    return style
        return CallStyle(shown=False)

    def _shows(self, style: CallStyle, tools: Sequence[Message] | None) -> bool:
        messages = [self._styled(_USER), _CALL, self._styled(_RESULT)]
        text = self._try(style.apply(messages), tools)
        if f"'{_KEY}'" in text or (style.content == "null" and "None" in text):
            return False  # Python's spelling, which no model has been trained on.
        arguments = json.dumps(_ARGUMENTS)
        if style.as_metadata:
            return f"{_NAME}\n{arguments}" in text
        wanted = arguments if style.arguments_as_text else _KEY
        return _NAME in text and wanted in text

    @property
    def tools(self) -> ToolSupport:
        """What of tools is shown, and what has to be told otherwise."""
        if self._tools is None:
            result = [{"type": "text", "text": _FIRST}]
            contents = (_FIRST, result)
            results = any(_FIRST in self._with_content("tool", c) for c in contents)
            history = self.calls.shown and results
            self._tools = ToolSupport(self._find_declarations(), history)
        return self._tools

    def _find_declarations(self) -> Declarations:
        user = self._styled(_USER)
        if _TOOL_NAME in self._try([user], [_TOOL]):
            return "variable"
        (system, *_) = conversation.with_tools_in_system([user], [_TOOL])
        return "system" if _TOOL_NAME in self._try([system, user]) else "none"

    def _try(
        self, messages: Sequence[Message], tools: Sequence[Message] | None = None
    ) -> str:
        """What it renders; nothing where it refuses, or the time is over."""
        if self._seconds <= 0:
            return ""
        context = {
            **self._special_tokens,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": False,
        }
        start = time.thread_time()
        try:
            return self._template.render(context, _LIMITS)
        except TemplateError:
            return ""
        finally:
            self._seconds -= time.thread_time() - start


def _is_quoted(word: str, text: str) -> bool:
    return any(quote + word + quote in text for quote in _QUOTES)


_ID: Final = "probe0001"
_NAME: Final = "probefunction"
_KEY: Final = "probekey"
_ARGUMENTS: Final = {_KEY: "probevalue"}
_USER: Final[Message] = {"role": "user", "content": "Hi"}
_RESULT: Final[Message] = {
    "role": "tool", "content": "1", "tool_call_id": _ID, "name": _NAME,
}  # fmt: skip

_TOOL_NAME: Final = "probetool"
_TOOL: Final[Message] = {
    "type": "function",
    "function": {
        "name": _TOOL_NAME,
        "description": "Other",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "Some"}},
            "required": ["text"],
        },
    },
}
"""Some templates show calls only where tools are declared."""


_CALL: Final[Message] = {
    "role": "assistant",
    "tool_calls": [
        {
            "id": _ID,
            "type": "function",
            "function": {"name": _NAME, "arguments": _ARGUMENTS},
        }
    ],
}

_CONTENTS: Final[tuple[CallContent, ...]] = ("absent", "null", "empty")
_STYLES: Final = (
    *(
        CallStyle(c, arguments_as_text=text)
        for c in _CONTENTS
        for text in (False, True)
    ),
    CallStyle(as_metadata=True),
)
"""In the order in which they are tried."""
