"""Grammars as llguidance takes them, and what it says of bad ones put into words."""

import json
import re
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from neuron.text.grammar_spec import GrammarError, GrammarSpec, with_options
from neuron.text.grammar_text import FREE_TEXT, free_text, special_token
from neuron.text.schema_check import MAX_REGEX, children, moved, pointed_at

_AT: Final = re.compile(r"^at (\d+)\((\d+)\): (.*)", re.DOTALL)
_UNIMPLEMENTED: Final = re.compile(r"Unimplemented keys: (\[.*\])")
_GBNF: Final = re.compile(r"^\s*[A-Za-z][\w-]*\s*::=", re.MULTILINE)
_PATIENCE: Final = 1.0
"""Seconds for finding the part of a schema that is at fault."""
_INDENT: Final = 4
"""Of the regex that a parser's message shows."""

Verdict = Callable[[str], str]
"""Takes a grammar; answers what is wrong with it, "" where nothing is."""


def source_of(spec: GrammarSpec, tokenizer: LLTokenizer) -> str:
    """The whole grammar.

    Raises:
        GrammarError: it is malformed.
    """
    bodies = [spec] if spec.alternative is None else [spec, spec.alternative]
    grammars = [_body(each) for each in bodies]
    before, rules = _before(spec, tokenizer)
    if not before and len(grammars) == 1 and spec.free is None:
        return json.dumps({"grammars": grammars})
    named = {f"body{index}": grammar for index, grammar in enumerate(grammars)}
    body = " | ".join(f"@{name}" for name in named)
    if spec.free is not None:
        rules += free_text(spec.free, body, tokenizer)
        body = FREE_TEXT
    head = {"lark_grammar": f"start: {before} ({body})\n{rules}"}
    parts = [{"name": name, **grammar} for name, grammar in named.items()]
    return json.dumps({"grammars": [head, *parts]})


def _body(spec: GrammarSpec) -> dict[str, Any]:
    if spec.kind in ("json_object", "json_schema"):
        return {"json_schema": with_options(spec.schema(), lenient=spec.lenient)}
    text = spec.source
    if not isinstance(text, str) or not text:
        raise GrammarError("", f"a {spec.kind} must be a string, and not an empty one")
    if spec.kind == "regex":
        if len(text) > MAX_REGEX:
            raise GrammarError("", f"it has more than {MAX_REGEX} characters")
        whole = json.loads(LLMatcher.grammar_from_regex(text))
        return {"lark_grammar": whole["grammars"][0]["lark_grammar"]}
    if _GBNF.search(text):
        try:
            text = any_to_lark(text)
        except Exception as error:  # The converter raises bare Exceptions.
            raise GrammarError("", f"it is not GBNF: {error}") from error
    return {"lark_grammar": text}


def _before(spec: GrammarSpec, tokenizer: LLTokenizer) -> tuple[str, str]:
    """What comes before the grammar itself, in Lark, and the rules that it needs."""
    if spec.after is not None:
        opening, marker, optional = "", spec.after, ""
    elif spec.thought is not None:
        start, marker = spec.thought
        opening = f"gap {special_token(start, tokenizer) or json.dumps(start)}"
        optional = "?"
    else:
        return spec.prefix and json.dumps(spec.prefix, ensure_ascii=False), ""
    if token := special_token(marker, tokenizer):
        text, rules = f"text {token}", "text: /(?s:.*)/"
    else:
        text = "text"
        rules = f"text[lazy]: TEXT\nTEXT: /(?s:.*)/ {json.dumps(marker)}"
    return f"({opening} {text} gap){optional}", f"{rules}\ngap: /[ \\n]{{0,4}}/\n"


def explained(spec: GrammarSpec, message: str, verdict: Verdict) -> GrammarError:
    """llguidance's message as ours, with the place that is at fault."""
    if spec.kind in ("json_object", "json_schema"):
        place = _guilty(spec.schema(), message, verdict)
        return GrammarError(*_plainly(place, message))
    match = _AT.match(message)
    if match is None:
        return GrammarError("", message.partition("\n")[0])
    line, column, rest = int(match[1]), int(match[2]), match[3]
    if spec.kind == "regex":
        return _of_regex(rest)
    # The lines after the message show the grammar, which its author knows.
    said = rest.partition("\n   1 |")[0].strip()
    if "regex parse error" in said:
        said = f"{said.partition(' (in ')[0]}: {_last_line(said)}"
    return GrammarError(f"line {line}, column {column}", said)


def _of_regex(rest: str) -> GrammarError:
    """The regex parser points at its fault with a caret under the text."""
    lines = rest.partition("\n   1 |")[0].split("\n")
    carets = next((line for line in lines if set(line.strip()) == {"^"}), "")
    place = f"character {carets.index('^') - _INDENT + 1}" if carets else ""
    return GrammarError(place, lines[-1].removeprefix("error: "))


def _guilty(schema: Mapping[str, Any], message: str, verdict: Verdict) -> str:
    """The innermost part of the schema that alone gives the same message."""
    root = {"root": moved(schema, "#/$defs/root")}

    def is_guilty(place: str) -> bool:
        alone = {"$ref": place.replace("#", "#/$defs/root", 1), "$defs": root}
        source = json.dumps({"grammars": [{"json_schema": with_options(alone)}]})
        return _without_trail(verdict(source)) == _without_trail(message)

    place, part, passed = "#", schema, {"#"}
    deadline = monotonic() + _PATIENCE
    while True:
        inner = [*children(place, part)]
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            inner.append((reference, pointed_at(schema, reference)))
        for candidate, value in inner:
            if monotonic() > deadline:
                return place
            if isinstance(value, Mapping) and candidate not in passed:
                passed.add(candidate)
                if is_guilty(candidate):
                    place, part = candidate, value
                    break
        else:
            return place


def _without_trail(message: str) -> str:
    """Without the references that were followed."""
    return message.partition("\n  while processing ")[0]


def _plainly(place: str, message: str) -> tuple[str, str]:
    said = _without_trail(message)
    if match := _UNIMPLEMENTED.search(said):
        keys = json.loads(match[1])
        verb = "is" if len(keys) == 1 else "are"
        where = f"{place}/{keys[0]}" if len(keys) == 1 else place
        return where, f"{', '.join(keys)} {verb} not supported"
    if "oneOf constraints are not supported" in said:
        return (
            place,
            "oneOf is supported where its schemas exclude each other: use anyOf",
        )
    if said.startswith("regex parse error"):
        return f"{place}/pattern", _last_line(said)
    return place, said


def _last_line(said: str) -> str:
    """Of a regex parser's message, which shows the regex before."""
    return said.rpartition("\n")[2].removeprefix("error: ")
