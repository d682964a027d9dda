"""The fields of a request that ask for a grammar."""

from typing import Any

import pytest

from neuron.text.grammar import GrammarError, GrammarSpec
from neuron.text.grammar_request import requested_grammar

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def wrapped(**fields: Any) -> dict[str, Any]:
    wrapper = {"name": "answer", "schema": SCHEMA, "strict": True} | fields
    return {"response_format": {"type": "json_schema", "json_schema": wrapper}}


@pytest.mark.parametrize(
    ("body", "field", "spec"),
    [
        (
            {"response_format": {"type": "json_object"}},
            "response_format",
            GrammarSpec("json_object"),
        ),
        (
            wrapped(),
            "response_format.json_schema.schema",
            GrammarSpec("json_schema", SCHEMA),
        ),
        (
            wrapped(strict=None),
            "response_format.json_schema.schema",
            GrammarSpec("json_schema", SCHEMA),
        ),
        (
            {"structured_outputs": {"regex": "a+", "json": None}},
            "structured_outputs.regex",
            GrammarSpec("regex", "a+"),
        ),
        (
            {"structured_outputs": {"json_object": False, "grammar": 'start: "a"'}},
            "structured_outputs.grammar",
            GrammarSpec("lark", 'start: "a"'),
        ),
        (
            {"guided_json": '{"type": "null"}'},
            "guided_json",
            GrammarSpec("json_schema", {"type": "null"}),
        ),
        (
            {"guided_choice": ["yes", 'say "no"'], "response_format": {"type": "text"}},
            "guided_choice",
            GrammarSpec("lark", 'start: "yes" | "say \\"no\\""'),
        ),
    ],
)
def test_what_is_asked_for(body: dict[str, Any], field: str, spec: GrammarSpec) -> None:
    asked = requested_grammar(body)
    assert asked is not None
    assert (asked.field, asked.spec) == (field, spec)


@pytest.mark.parametrize(
    "body", [{}, {"response_format": None}, {"response_format": {"type": "text"}}]
)
def test_nothing_asked_for(body: dict[str, Any]) -> None:
    assert requested_grammar(body) is None


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({"response_format": "json"}, "response_format", "must be an object"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'xml' is none"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "must be an object",
        ),
        (wrapped(name="a b"), "response_format.json_schema.name", "letters"),
        (wrapped(strict=1), "response_format.json_schema.strict", "true, false"),
        (wrapped(schema=None), "response_format.json_schema.schema", "an object"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"guided_regex": 3}, "guided_regex", "a string"),
        ({"guided_choice": []}, "guided_choice", "not an empty one"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of"),
        (
            {"structured_outputs": {"json": {}, "regex": "a"}},
            "structured_outputs",
            "exactly one of",
        ),
        (
            {"structured_outputs": {"structural_tag": {}}},
            "structured_outputs.structural_tag",
            "not supported",
        ),
        (
            {"structured_outputs": {"json_object": 1}},
            "structured_outputs.json_object",
            "true or false",
        ),
        (
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "guided_regex",
            "combined with response_format",
        ),
    ],
)
def test_refused_by_name(body: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message) as caught:
        requested_grammar(body)
    assert caught.value.place == place
