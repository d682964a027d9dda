"""A conversation as the prompt its model was trained on.

The template is the model's own: `chat_template.jinja`, else `chat_template` of
`tokenizer_config.json`. A model without one is a base model: its prompt is the
contents of the messages, joined by blank lines and without role labels, so that it
continues the last message.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]
"""`role` and `content`, both strings, and what else the template may read."""

_SEPARATOR: Final = "\n\n"


class TemplateError(Exception):
    """The template refuses this conversation, or is broken itself."""


class ChatTemplate:
    """Renders conversations; the plain template where the model has none."""

    def __init__(
        self, source: str | None, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        self._special_tokens = dict(special_tokens or {})
        self._template: jinja2.Template | None = None
        if source is not None:
            try:
                self._template = _environment().from_string(source)
            except jinja2.TemplateError as error:
                raise TemplateError(f"the chat template is broken: {error}") from error

    @classmethod
    def load(cls, folder: Path, tokenizer_config: Mapping[str, Any],
             special_tokens: Mapping[str, str]) -> Self:  # fmt: skip
        """The model's template, by Hugging Face's precedence.

        Raises:
            TemplateError: it is not valid Jinja.
        """
        file = folder / "chat_template.jinja"
        if file.is_file():
            return cls(file.read_text(encoding="utf-8"), special_tokens)
        return cls(_named(tokenizer_config.get("chat_template")), special_tokens)

    @property
    def is_plain(self) -> bool:
        """Whether the model has no template of its own."""
        return self._template is None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, up to where the assistant's answer begins.

        Raises:
            TemplateError: the template refuses the conversation, in its own words.
        """
        if self._template is None:
            return _SEPARATOR.join(message["content"] for message in messages)
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            raise TemplateError(str(error)) from error
        except (
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            OverflowError,
        ) as error:
            raise TemplateError(f"{type(error).__name__}: {error}") from error


def _named(templates: object) -> str | None:
    """A template, or the one called `default` of several."""
    if isinstance(templates, str):
        return templates
    if isinstance(templates, list):
        for entry in templates:
            if isinstance(entry, dict) and entry.get("name") == "default":
                return _named(entry.get("template"))
    return None


class _GenerationBlock(Extension):
    """`{% generation %}` marks what a model is trained on; here it is only its text."""

    tags = {"generation"}  # noqa: RUF012 - declared mutable by the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates expect to find: Hugging Face's environment."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationBlock],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format_: str) -> str:
    return datetime.datetime.now().strftime(format_)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
