"""What an output may be asked to look like."""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Final, Literal

from neuron.text.schema_check import SchemaProblem, check_schema

Kind = Literal["json_object", "json_schema", "regex", "lark"]

MAX_SOURCE: Final = 512 * 1024
"""Longest grammar, in characters."""

_WHITESPACE: Final = r"[ ]|\r?\n(?:[ ]{0,32}|\t{0,16})"
"""Between the tokens of JSON: as people and models write it, and no more than that, so
that an output cannot run on in blanks."""


BLANK: Final = r"[\s\x1c-\x1f]"
"""What Python calls whitespace, and so the readers of outputs, as a regex."""


class GrammarError(Exception):
    """A grammar that cannot be followed; `place` says where in it, "" is all of it.

    `part` names the schema that is meant where the grammar is made of several.
    """

    def __init__(self, place: str, message: str, part: str = "") -> None:
        super().__init__(": ".join(filter(None, (part, place, message))))
        self.place = place
        self.message = message
        self.part = part


@dataclass(frozen=True, slots=True)
class FreeText:
    """Text that may come before what a grammar describes, or instead of it.

    What the text must not hold is given as expressions of Lark terminals.
    """

    openings: tuple[str, ...]
    """After each of these the grammar begins, wherever it stands."""
    never: tuple[str, ...]
    """What text does not hold, the openings included."""
    never_first: tuple[str, ...] = ()
    """What it does not begin with, blanks left aside."""
    bare: bool = False
    """The grammar may also begin without an opening where the text would begin."""
    markers: tuple[int, ...] = ()
    """Special tokens that are no part of a text. All others are: they say nothing."""


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A grammar as it was asked for.

    `source` is the schema of a json_schema, the text of a regex (of the whole output)
    or of a Lark grammar (GBNF is fine too), and nothing for json_object.
    """

    kind: Kind
    source: str | Mapping[str, Any] = ""
    after: str | None = None
    """Text is free up to this marker, such as `</think>`; then the grammar begins."""
    thought: tuple[str, str] | None = None
    """Text between these two markers may come first; not together with `after`."""
    prefix: str = ""
    """This comes first; not together with `after` or `thought`."""
    alternative: "GrammarSpec | None" = None
    """The output may follow this one instead, from the same beginning."""
    lenient: bool = False
    """Pass over the keywords of a schema that cannot be enforced."""
    free: FreeText | None = None
    """Text may come before it or instead; not together with `alternative`."""
    parts: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Names and schemas of what stands in it and is to be followed in full."""

    def key(self) -> str:
        """Equal for equal grammars.

        Raises:
            GrammarError: it is too large, or holds what JSON cannot.
        """
        try:
            other = None if self.alternative is None else self.alternative.key()
            free = None if self.free is None else astuple(self.free)
            parts = [
                self.kind, self.source, self.after, self.thought, self.prefix, other,
                self.lenient, free, self.parts,
            ]  # fmt: skip
            key = json.dumps(parts, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError("", f"it is not JSON: {error}") from error
        if len(key) > MAX_SOURCE:
            raise GrammarError(
                "", f"it has {len(key)} characters, which is more than {MAX_SOURCE}"
            )
        return key

    def schema(self) -> Mapping[str, Any]:
        """Of a json_object or json_schema, checked for what would be ignored.

        Raises:
            GrammarError: it is not a schema, or one that cannot be followed.
        """
        if self.kind == "json_object":
            return {"type": "object"}
        if not isinstance(self.source, Mapping):
            raise GrammarError("#", "a schema must be a JSON object")
        try:
            check_schema(self.source)
        except SchemaProblem as problem:
            raise GrammarError(problem.place, problem.message) from problem
        return self.source


def with_options(schema: Mapping[str, Any], *, lenient: bool = False) -> dict[str, Any]:
    """A schema with our rules for what schemas leave open; x-guidance is ours."""
    options = {
        "whitespace_pattern": _WHITESPACE,
        "lenient": lenient,
        "coerce_one_of": lenient,
    }
    return {**schema, "x-guidance": options}


def json_rule(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """A schema as something that can stand in a rule of a Lark grammar."""
    return f"%json {json.dumps(with_options(schema, lenient=lenient))}"
