"""Calls written in a format and parsed again are the same calls, however split."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from neuron.text.tools.spec import ToolSpec
from tests.unit.text.tools.support import THINK, WRITERS, Call, parse, syntax

_MARKERS = [
    "<tool_call>", "</tool_call>", "</function>", "</parameter>", "<parameter=a>",
    "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "Action:", "```", "```json",
    "<|END_ACTION|>", "<｜tool▁call▁end｜>", "<|/tool_call|>", "<think>", "</think>",
    "\n", "\\", '"', "'", "{", "}", "[", "]", "(", ")", ",", ";", "\\u00e9", "é", "😀",
]  # fmt: skip
_TEXTS = st.one_of(
    st.lists(st.sampled_from([*_MARKERS, "a", " "]), max_size=6).map("".join),
    st.text(max_size=12),
)
_NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
_KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)
_NAMES = st.sampled_from(["f", "get_weather", "list-files", "A1"])
_TYPES = {
    str: "string", bool: "boolean", int: "integer", float: "number", list: "array",
    dict: "object", type(None): "null",
}  # fmt: skip
_AMBIGUOUS = re.compile(
    r"</parameter>\s*(<parameter=|</function>)|</function>\s*</tool_call>"
)


@st.composite
def calls_and_tools(draw: st.DrawFn) -> tuple[list[Call], list[ToolSpec]]:
    """Every tool is called at most once, so that a schema fits its arguments."""
    names = draw(st.lists(_NAMES, min_size=1, max_size=3, unique=True))
    drawn = {n: draw(st.dictionaries(_KEYS, _VALUES, max_size=3)) for n in names}
    tools = [ToolSpec(name, "", _schema(values)) for name, values in drawn.items()]
    return [*drawn.items()], tools


def _schema(values: dict[str, Any]) -> dict[str, Any]:
    properties = {key: {"type": _TYPES[type(value)]} for key, value in values.items()}
    return {"type": "object", "properties": properties, "required": [*values]}


def _chunks(text: str, cuts: Sequence[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("layout", WRITERS)
@given(
    case=calls_and_tools(),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    whole=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_calls_come_back(
    layout: str, case: tuple[list[Call], list[ToolSpec]], cuts: list[int], whole: bool
) -> None:
    calls, tools = case
    name, writer = WRITERS[layout]
    if layout == "qwen_xml":
        # No notation without quotes can hold what looks like its own end.
        inside = [f"{value}\n</parameter>\n" if isinstance(value, str)
                  else json.dumps(value, ensure_ascii=False)
                  for _, values in calls for value in values.values()]  # fmt: skip
        assume(not any(_AMBIGUOUS.search(text) for text in inside if "</" in text))
    text = writer(calls)
    reply = parse(_chunks(text, cuts), syntax(name), tools, whole_calls=whole)
    assert reply.parsed() == calls
    assert (reply.content, reply.unparsed, reply.incomplete) == ("", 0, [])


@pytest.mark.parametrize("layout", [n for n in WRITERS if n not in
                                    ("qwen_xml", "pythonic")])  # fmt: skip
def test_json_arguments_are_passed_on_as_written(layout: str) -> None:
    name, writer = WRITERS[layout]
    written = '{"a":  [1,2 , {"b":\t-1.50e+1}], "é": "\\u00e9\\n\\/" }'
    text = writer([("f", {"X": "X"})]).replace('{"X": "X"}', written)
    reply = parse(text, syntax(name), [ToolSpec("f")])
    assert reply.calls == [("f", written)]


@pytest.mark.parametrize("layout", WRITERS)
def test_a_thought_and_text_stand_before_the_calls(layout: str) -> None:
    name, writer = WRITERS[layout]
    marked = name not in ("generic", "glm", "llama_json", "pythonic")
    before = "Let me look.\n\n" if marked else ""
    call = writer([("f", {"a": 1})])
    text = f"<think>\nHm.\n</think>\n\n{before}{call}\n"
    reply = parse(text, syntax(name, THINK), [ToolSpec("f", "", _schema({"a": 1}))])
    assert (reply.reasoning, reply.content) == ("Hm.\n", before)
    assert reply.parsed() == [("f", {"a": 1})]


@pytest.mark.parametrize("layout", WRITERS)
def test_the_name_comes_before_the_arguments_are_complete(layout: str) -> None:
    name, writer = WRITERS[layout]
    text = writer([("f", {"a": "word " * 20})])
    tools = [ToolSpec("f", "", _schema({"a": ""}))]
    half = text[: text.index("word") + 40]
    reply = parse([half], syntax(name), tools)
    assert reply.calls[0][0] == "f"
    assert reply.calls[0][1].rstrip().endswith("word word")
    assert reply.incomplete == [0]


@pytest.mark.parametrize("layout", WRITERS)
def test_a_call_that_is_cut_off_is_no_valid_json_or_text(layout: str) -> None:
    name, writer = WRITERS[layout]
    text = writer([("f", {"a": "b", "c": [1, {"d": None}]})])
    tools = [ToolSpec("f", "", _schema({"a": "", "c": []}))]
    for length in range(1, len(text)):
        cut = text[:length]
        reply = parse([cut], syntax(name), tools)
        for index, (_, arguments) in enumerate(reply.calls):
            if index in reply.incomplete:
                with pytest.raises(json.JSONDecodeError):
                    json.loads(arguments)
            else:
                assert json.loads(arguments) == {"a": "b", "c": [1, {"d": None}]}
        whole = parse([cut], syntax(name), tools, whole_calls=True)
        assert whole.calls == [] or not whole.incomplete
        if not whole.calls:
            assert whole.content == cut
