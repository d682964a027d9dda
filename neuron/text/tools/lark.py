"""Lark grammars for llguidance, built rule by rule."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuron.text.grammar_spec import json_rule
from neuron.text.tools.spec import ToolSpec

NAME: Final = "NAME"
"""Stands for a tool's name."""


class Lark:
    """Rules of a grammar, and how this model's markers stand in them."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        """
        Args:
            tokens: texts that are tokens of their own (not all of them, at least the
                markers): a grammar has to name these by their ids.
        """
        self._tokens = tokens
        self._rules: list[str] = []

    def rule(self, body: str, options: str = "") -> str:
        """Add a rule; returns the name to call it by."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def has_token(self, text: str) -> bool:
        """Whether this model has a token for it."""
        return text in self._tokens

    def text(self, *parts: str) -> str:
        """These texts in a row, each a token where the model has one for it."""
        return " ".join(self._text(part) for part in parts if part)

    def json(self, schema: Mapping[str, Any]) -> str:
        """A JSON value."""
        return self.rule(json_rule(schema, lenient=True))

    def either(self, bodies: Sequence[str]) -> str:
        """One of them."""
        return self.rule(" | ".join(bodies))

    def each(
        self, tools: Sequence[ToolSpec], before: Sequence[str], after: Sequence[str]
    ) -> str:
        """A call of one of `tools`: its name and, as JSON, its arguments.

        Args:
            before: texts up to the arguments, `NAME` standing for the name.
            after: texts from there on.
        """
        return self.either([
            " ".join(filter(None, (
                self.text(*(tool.name if part is NAME else part for part in before)),
                self.json(arguments_schema(tool)),
                self.text(*after),
            )))
            for tool in tools
        ])  # fmt: skip

    def text_up_to(self, end: str) -> str:
        """Any text up to the first `end`, included."""
        return self.rule("/(?s:.*)/", f"[suffix={_quoted(end)}]")

    def source(self, start: str) -> str:
        """The grammar, beginning with the rule body `start`."""
        return "\n".join([f"start: {start}", *self._rules]) + "\n"

    def _text(self, text: str) -> str:
        if text in self._tokens:
            return f"<[{self._tokens[text]}]>"
        return _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def listed(item: str, parallel: bool, separator: str = '", "') -> str:
    """One item, or with `parallel` one or more."""
    return f"{item} ({separator} {item})*" if parallel else item


def arguments_schema(tool: ToolSpec) -> dict[str, Any]:
    """Its parameters as a schema that llguidance holds to an object."""
    return {**tool.parameters, "type": "object"}


def property_schema(tool: ToolSpec, key: str) -> dict[str, Any]:
    """Of one parameter, with the definitions that it may refer to."""
    shared = {part: tool.parameters[part] for part in ("$defs", "definitions")
              if part in tool.parameters}  # fmt: skip
    schema = tool.properties[key]
    return {**shared, **schema} if isinstance(schema, Mapping) else shared
