"""What a chat template takes, found out by rendering small conversations with it.

A template that is handed what it does not expect often does not fail: it prints a list
of parts as Python would, or loops over the characters of a string. So it is tried, once
for each question, when the question first comes up.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuron.text.compiled_template import CompiledTemplate, TemplateError
from neuron.text.conversation import ContentStyle
from neuron.text.template_bounds import RenderLimits

_FIRST: Final = "needleone"
_SECOND: Final = "needletwo"
_QUOTES: Final = ("'", '"')
_LIMITS: Final = RenderLimits(seconds=0.5, value=1 << 20, total=16 << 20)


class TemplateTraits:
    """Answers about one template; safe to share between threads."""

    def __init__(
        self, template: CompiledTemplate, special_tokens: Mapping[str, str]
    ) -> None:
        self._template = template
        self._special_tokens = special_tokens
        self._styles: dict[str, ContentStyle] = {}
        self._arguments_as_text: bool | None = None
        self.knows_developer = "developer" in template.source

    def content_style(self, role: str) -> ContentStyle:
        """Whether content of `role` may be a string, parts, or either."""
        if role not in _AROUND:
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
        takes_parts = (
            _FIRST in parts and _SECOND in parts and not _is_quoted(_FIRST, parts)
        )
        if not takes_parts:
            return "text"
        return "either" if _FIRST in text else "parts"

    def _with_content(self, role: str, content: Any) -> list[dict[str, Any]]:
        before, after = _AROUND[role]
        conversation = [*before, {"role": role, "content": content}, *after]
        if role == "tool":
            conversation[-1] |= {"tool_call_id": _ID, "name": "probe"}
            if self.arguments_as_text:
                conversation[-2] = _call(json.dumps(_ARGUMENTS))
        return conversation

    @property
    def arguments_as_text(self) -> bool:
        """Whether arguments of tool calls must be JSON strings, not objects."""
        if self._arguments_as_text is None:
            as_object = self._try([*_ASKED, _call(_ARGUMENTS), _RESULT])
            shown = _FIRST in as_object and f"'{_FIRST}'" not in as_object
            as_text = self._try([*_ASKED, _call(json.dumps(_ARGUMENTS)), _RESULT])
            self._arguments_as_text = not shown and json.dumps(_ARGUMENTS) in as_text
        return self._arguments_as_text

    def _try(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """What it renders; nothing where it refuses."""
        context = {
            **self._special_tokens,
            "messages": messages,
            "tools": None,
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
_ARGUMENTS: Final = {_FIRST: _SECOND}
_ASKED: Final[list[dict[str, Any]]] = [{"role": "user", "content": "Hi"}]
_RESULT: Final[dict[str, Any]] = {
    "role": "tool", "content": "1", "tool_call_id": _ID, "name": "probe",
}  # fmt: skip


def _call(arguments: Any) -> dict[str, Any]:
    function = {"name": "probe", "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": _ID, "type": "function", "function": function}],
    }


_AROUND: Final[dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]] = {
    "system": ([], _ASKED),
    "developer": ([], _ASKED),
    "user": ([], []),
    "assistant": (_ASKED, _ASKED),
    "tool": ([*_ASKED, _call(_ARGUMENTS)], []),
}
"""What makes a conversation of a message of each role."""
