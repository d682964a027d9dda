"""Lark grammars for llguidance, built rule by rule."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from neuron.text.grammar_spec import json_rule
from neuron.text.tools.spec import ToolSpec

NAME: Final = "NAME"
"""Stands for a tool's name."""


@dataclass(frozen=True, slots=True)
class CallRules:
    """Calls in two parts, so that a text may come between the one and the other."""

    openings: tuple[str, ...]
    """Markers that begin them, the usual one first."""
    rest: str
    """What follows it: the body of a rule."""
    bare: bool = False
    """Where an answer begins they need no marker, and usually have none."""


class Lark:
    """Rules of a grammar, and how this model's markers stand in them."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        """
        Args:
            tokens: texts that are tokens of their own (not all of them, at least the
                markers): a grammar has to name these by their ids.
        """
        self._tokens = tokens
        self._rules: dict[str, str] = {}

    def rule(self, body: str, options: str = "") -> str:
        """Add a rule, unless there is the same; returns the name to call it by."""
        return self._rules.setdefault(f"{options}: {body}", f"r{len(self._rules)}")

    def define(self, name: str, body: str) -> None:
        """Add a rule of that name, which may refer to itself."""
        self._rules[f": {body}"] = name

    def has_token(self, text: str) -> bool:
        """Whether this model has a token for it."""
        return text in self._tokens

    def text(self, *parts: str) -> str:
        """These texts in a row, each a token where the model has one for it."""
        return " ".join(self._text(part) for part in parts if part)

    def json(self, schema: Mapping[str, Any], *, strict: bool = False) -> str:
        """A JSON value; unless `strict`, as far as its schema can be followed."""
        return self.rule(json_rule(schema, lenient=not strict))

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
                self.json(arguments_schema(tool), strict=tool.strict),
                self.text(*after),
            )))
            for tool in tools
        ])  # fmt: skip

    def lazy(self, terminal: str) -> str:
        """The shortest text that is such a terminal."""
        name = self.rule(terminal).upper()
        self._rules[f": {terminal}"] = name
        return self.rule(name, "[lazy]")

    def source(self, start: str) -> str:
        """The grammar, beginning with the rule body `start`."""
        rules = [f"{name}{body}" for body, name in self._rules.items()]
        return "\n".join([f"start: {start}", *rules]) + "\n"

    def _text(self, text: str) -> str:
        if text in self._tokens:
            return f"<[{self._tokens[text]}]>"
        return quoted(text)


def quoted(text: str) -> str:
    """A text as it stands in a grammar."""
    return json.dumps(text, ensure_ascii=False)


def listed(item: str, parallel: bool, separator: str = '", "') -> str:
    """One item, or with `parallel` one or more."""
    return f"{item} ({separator} {item})*" if parallel else item


def arguments_schema(tool: ToolSpec) -> dict[str, Any]:
    """Its parameters as a schema that llguidance holds to an object."""
    return {**tool.parameters, "type": "object"}
