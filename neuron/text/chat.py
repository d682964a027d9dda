"""A conversation as the prompt its model was trained on.

The template is the model's own (`neuron.template_files` says where from),
rendered as Hugging Face transformers does it. Where a template would refuse or lose
what OpenAI's API allows, and only there, the conversation is put in a form that it
takes (`neuron.text.conversation`).

A model without a template is a base model: its prompt is the contents of the messages,
joined by blank lines and without role labels, so that it continues the last message.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from neuron.exl2.errors import FormatError
from neuron.template_files import DEFAULT, find_templates
from neuron.text import continuation, conversation
from neuron.text.compiled_template import (
    CompiledTemplate,
    TemplateError,
    reserved_names,
)
from neuron.text.conversation import ConversationError, Message
from neuron.text.template_bounds import RenderLimits
from neuron.text.template_traits import TemplateTraits, ToolSupport

__all__ = ["ChatTemplate", "ConversationError", "Message", "TemplateError"]

_SEPARATOR: Final = "\n\n"
_RESERVED: Final = frozenset(
    (
        "messages", "tools", "add_generation_prompt", "continue_final_message",
        "chat_template", "tokenize",
    )
)  # fmt: skip
"""What `kwargs` may not say, because the request itself does."""


class ChatTemplate:
    """Renders conversations; the plain template where the model has none."""

    def __init__(
        self,
        source: str | Mapping[str, str] | None,
        special_tokens: Mapping[str, str] | None = None,
        limits: RenderLimits | None = None,
    ) -> None:
        """Compile one template, or several by name.

        Raises:
            TemplateError: one is not valid Jinja.
        """
        sources = {DEFAULT: source} if isinstance(source, str) else dict(source or {})
        self._special_tokens = dict(special_tokens or {})
        self._templates = {
            name: _Template(CompiledTemplate(text, limits), self._special_tokens)
            for name, text in sources.items()
        }

    @classmethod
    def load(cls, folder: Path, tokenizer_config: Mapping[str, Any],
             special_tokens: Mapping[str, str]) -> Self:  # fmt: skip
        """The model's templates, by Hugging Face's precedence.

        Raises:
            TemplateError: one is not valid Jinja, or its file is damaged.
        """
        try:
            found = find_templates(folder, tokenizer_config)
        except FormatError as error:
            raise TemplateError(str(error)) from error
        return cls(found, special_tokens)

    @property
    def is_plain(self) -> bool:
        """Whether the model has no template of its own."""
        return not self._templates

    @property
    def source(self) -> str | None:
        """The template that conversations with tools are rendered with."""
        template = self._templates.get("tool_use") or self._templates.get(DEFAULT)
        return None if template is None else template.compiled.source

    def reads(self, variable: str) -> bool:
        """Whether a template looks at it, such as `tools` or `enable_thinking`."""
        return any(
            variable in template.compiled.variables
            for template in self._templates.values()
        )

    def tool_support(self, *, tools: bool) -> ToolSupport:
        """What of tools a conversation with or without them shows. Slow at first."""
        named = self._templates.get("tool_use") if tools else None
        template = named or self._templates.get(DEFAULT)
        if template is None:
            return ToolSupport(history=not self.is_plain)
        return template.traits.tools

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt.

        Args:
            messages: as OpenAI's API has them.
            tools: as OpenAI's API has them; none is the same as no tools.
            add_generation_prompt: end where the assistant's answer begins.
            continue_final_message: end where the last message ends, for the model to
                go on with it; not together with `add_generation_prompt`.
            kwargs: further variables for the template, such as `enable_thinking`.
                `documents` are for a template called `rag`, where there is one.

        Raises:
            ConversationError: the messages are nothing that a template could take.
            TemplateError: the template refuses them, in its own words, or fails.
        """
        kwargs = kwargs or {}
        self._check(messages, kwargs)
        if add_generation_prompt and continue_final_message:
            raise continuation.ContinuationError(
                "continue_final_message and add_generation_prompt cannot both be true"
            )
        if self.is_plain:
            return _plain(messages, tools)
        variables = {
            **self._special_tokens,
            **kwargs,
            "tools": list(tools) if tools else None,
            "documents": kwargs.get("documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        template = self._choose(variables)
        return template.render(messages, variables, to_continue=continue_final_message)

    def _check(self, messages: Sequence[Message], kwargs: Mapping[str, Any]) -> None:
        if not messages:
            raise ConversationError("messages: must hold at least one message")
        conversation.check_parts(messages)
        for name in kwargs:
            taken = name in _RESERVED or name in self._special_tokens
            if taken or name in reserved_names():
                param = f"chat_template_kwargs.{name}"
                raise ConversationError(
                    f"{param}: must not be set, the template knows it otherwise",
                    param=param,
                )
        documents = kwargs.get("documents")
        if documents is not None and not _are_objects(documents):
            param = "chat_template_kwargs.documents"
            raise ConversationError(f"{param}: must be a list of objects", param=param)

    def _choose(self, variables: Mapping[str, Any]) -> "_Template":
        if variables["tools"] and (template := self._templates.get("tool_use")):
            return template
        if variables["documents"] and (template := self._templates.get("rag")):
            return template
        if (template := self._templates.get(DEFAULT)) is None:
            raise TemplateError(
                "the model has no default chat template, only "
                + ", ".join(sorted(self._templates))
            )
        return template


class _Template:
    """One of a model's templates, and what it takes."""

    def __init__(
        self, compiled: CompiledTemplate, special_tokens: Mapping[str, str]
    ) -> None:
        self.compiled = compiled
        self.traits = TemplateTraits(compiled, special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, Any],
        *,
        to_continue: bool,
    ) -> str:
        """The conversation as it is, or else the first form that is taken whole.

        Raises:
            TemplateError: none is; it says why not as it is.
        """
        normal = self._normal(messages)
        refusals: list[TemplateError] = []
        incomplete: str | None = None
        for form in _forms(normal):
            try:
                text = self._render(form, variables, to_continue=to_continue)
            except TemplateError as error:
                refusals.append(error)
                continue
            if _is_whole(normal, text):
                return text
            if form is normal:
                incomplete = text
        if incomplete is not None:
            return incomplete
        raise self._explained(refusals[0], normal)

    def _normal(self, messages: Sequence[Message]) -> list[Message]:
        normal = conversation.without_nulls(messages)
        normal = conversation.with_reasoning_names(normal)
        if not self.traits.knows_developer:
            normal = conversation.developer_as_system(normal)
        if conversation.has_calls(normal):
            normal = self.traits.calls.apply(normal)
        return normal

    def _render(
        self,
        messages: Sequence[Message],
        variables: Mapping[str, Any],
        *,
        to_continue: bool,
    ) -> str:
        messages = conversation.with_content(messages, self.traits.content_style)
        if not to_continue:
            return self.compiled.render({**variables, "messages": messages})
        messages, text = continuation.marked(messages)
        rendered = self.compiled.render({**variables, "messages": messages})
        return continuation.cut(rendered, text)

    def _explained(
        self, refusal: TemplateError, messages: Sequence[Message]
    ) -> TemplateError:
        """The refusal, with what is odd about the conversation and may be why."""
        if not conversation.has_calls(messages):
            return refusal
        calls = self.traits.calls
        unparsed = conversation.unparsed_arguments(messages)
        if not calls.shown:
            reason, param = "the chat template shows no tool calls", refusal.param
        elif unparsed and not calls.arguments_as_text:
            param = unparsed[0]
            reason = f"{param} is no JSON object, which the chat template may need"
        else:
            return refusal
        return TemplateError(f"{reason}: {refusal}", line=refusal.line, param=param)


def _forms(messages: list[Message]) -> Iterator[list[Message]]:
    """The conversation, then forms of it for templates that take it no other way."""
    yield messages
    merged = messages
    if conversation.late_system(messages):
        merged = conversation.with_one_system(messages)
        yield merged
    if conversation.has_calls(messages):
        yield conversation.with_short_ids(messages)
        if merged is not messages:
            yield conversation.with_short_ids(merged)


def _is_whole(messages: list[Message], rendered: str) -> bool:
    """Whether no system message is lost, which templates are known to do silently."""
    return all(
        text.strip() in rendered
        for message in conversation.late_system(messages)
        for text in conversation.texts(message)
    )


def _plain(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
) -> str:
    if tools:
        raise ConversationError(
            "tools: the model has no chat template that could tell it of them",
            param="tools",
        )
    contents = ("\n".join(conversation.texts(message)) for message in messages)
    return _SEPARATOR.join(content for content in contents if content)


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
