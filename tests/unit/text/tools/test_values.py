"""Values that are not written as JSON become it."""

import ast
import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from neuron.text.tools.coerce import coerce, types_of
from neuron.text.tools.python_literal import to_json

_PYTHON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(),
        st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=10),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner,
                                                     max_size=3)),
    max_leaves=8,
)  # fmt: skip


@given(value=_PYTHON)
@settings(max_examples=150, deadline=None)
def test_what_python_prints_is_read(value: Any) -> None:
    text = to_json(repr(value))
    assert text is not None
    assert json.loads(text) == value


@given(value=_PYTHON, ascii_=st.booleans())
@settings(max_examples=60, deadline=None)
def test_json_is_read_too(value: Any, ascii_: bool) -> None:
    text = to_json(json.dumps(value, ensure_ascii=ascii_))
    assert text is not None
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "literal",
    [
        "'a\\x41\\u00e9\\U0001f600\\\\\\'\\n'", "'''a'b\nc'''", '"""a"b"""',
        "(1, 'a',)", "[]", "{}", "1_000", ".5", "5.", "+7", "-0.25e-3", "'\\d'",
        " [ 1 , 2 ] ", "''",
    ],
)  # fmt: skip
def test_literals(literal: str) -> None:
    text = to_json(literal)
    assert text is not None
    expected = "\\d" if literal == "'\\d'" else ast.literal_eval(literal.strip())
    if isinstance(expected, tuple):
        expected = list(expected)
    assert json.loads(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "f(1)", "1 + 1", "[1", "{1: 2}", "'a", "nan", "inf", "'\\x4'", "a=1",
     "'\\U00110000'", "[1 2]", "{'a' 1}", "b'x'", "1j", "[" * 5000],
)  # fmt: skip
def test_what_is_no_literal_is_none(text: str) -> None:
    assert to_json(text) is None


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("5", ("string",), "5"),
        ("null", ("string",), "null"),
        ("null", ("string", "null"), None),
        ("None", ("null", "integer"), None),
        ("null", ("integer",), None),
        (" 5 ", ("integer",), 5),
        ("-12", ("integer",), -12),
        ("5.0", ("integer",), 5.0),
        ("5.5", ("integer",), "5.5"),
        ("5.5", ("number",), 5.5),
        ("1e3", ("number",), 1000.0),
        ("12345678901234567890", ("number",), 12345678901234567890),
        ("True", ("boolean",), True),
        ("false", ("boolean",), False),
        ("yes", ("boolean",), "yes"),
        ('{"a": [1]}', ("object",), {"a": [1]}),
        ("{'a': None}", ("object",), {"a": None}),
        ("[1, 2", ("array",), "[1, 2"),
        ("[1]", ("object",), "[1]"),
        ("7", ("integer", "string"), 7),
        ("7", ("string", "integer"), "7"),
        ("x", ("integer", "string"), "x"),
        ("", ("integer",), ""),
        ("null", (), "null"),
    ],
)
def test_a_value_takes_the_declared_type(
    text: str, types: tuple[str, ...], value: object
) -> None:
    found = json.loads(coerce(text, types))
    assert found == value
    assert type(found) is type(value)


def test_the_types_of_a_schema() -> None:
    root = {"$defs": {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}
    for schema, types in [
        ({"type": "string"}, ("string",)),
        ({"type": ["integer", "null"]}, ("integer", "null")),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}, ("null", "integer")),
        ({"oneOf": [{"type": "array"}, {"type": "array"}]}, ("array",)),
        ({"allOf": [{"$ref": "#/$defs/n"}]}, ("integer",)),
        ({"enum": ["a", 1, None]}, ("string", "integer", "null")),
        ({"const": True}, ("boolean",)),
        ({"$ref": "#/$defs/loop"}, ()),
        ({"$ref": "#/$defs/missing/x"}, ()),
        ({}, ()),
        (True, ()),
        (None, ()),
    ]:
        assert types_of(schema, root) == types
