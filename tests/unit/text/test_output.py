"""Thought, answer and calls of a reply; nothing lost, however it is split."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings, strategies as st

from neuron.text.output import OutputSyntax
from neuron.text.reader import Reader, Waiting
from neuron.text.reasoning import ReasoningSyntax, opens_reasoning
from neuron.text.tools.calls import CallSink, NotACallError
from neuron.text.tools.hermes import Hermes
from neuron.text.tools.spec import ToolSpec
from tests.unit.text.tools.support import BY_NAME, THINK, Reply, parse, syntax

TOOLS = [
    ToolSpec("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}}),
    ToolSpec("g"),
]

_FRAGMENTS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "<function=",
    "</function>", "<parameter=a>", "<parameter=b>", "</parameter>", "[TOOL_CALLS]",
    "[ARGS]", "<|python_tag|>", "<|python_start|>", "<|python_end|>", "Action:",
    "```json", "```", "<|START_ACTION|>", "<|END_ACTION|>", "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>", "<|tool_call|>", "<|/tool_call|>", "functools[", "function",
    '{"name": "f", "arguments": {"a": 1}}', '{"name": "g", "parameters": {}}',
    '{"name": ', '"f"', "f(a=1)", "[f(a=1), g()]", "a=", '"arguments": ', "{", "}", "[",
    "]", "(", ")", ",", ":", ";", '"', "'", "\\", "\n", " ", "\t", "1", "true", "f",
    "g", "hello", "é😀", "<", "</",
]  # fmt: skip
_SOUP = st.lists(st.sampled_from(_FRAGMENTS), max_size=12).map("".join)
_CUTS = st.lists(st.integers(0, 400), max_size=12)


def _parse(
    text: str, name: str, cuts: Sequence[int] = (), *, inside: bool = False,
    whole: bool = False, reasoning: ReasoningSyntax | None = THINK,
) -> Reply:  # fmt: skip
    places = sorted({min(cut, len(text)) for cut in cuts})
    chunks = [text[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]
    return parse(
        chunks, syntax(name, reasoning), TOOLS, in_reasoning=inside, whole_calls=whole
    )


@pytest.mark.parametrize("name", BY_NAME)
@given(text=_SOUP, cuts=_CUTS, inside=st.booleans(), whole=st.booleans())
@settings(max_examples=60, deadline=None)
def test_how_text_is_split_does_not_matter(
    name: str, text: str, cuts: list[int], inside: bool, whole: bool
) -> None:
    split = _parse(text, name, cuts, inside=inside, whole=whole)
    letters = _parse(text, name, range(len(text)), inside=inside, whole=whole)
    at_once = _parse(text, name, inside=inside, whole=whole)
    assert split == letters == at_once


@pytest.mark.parametrize("name", BY_NAME)
@given(text=_SOUP, whole=st.booleans())
@settings(max_examples=60, deadline=None)
def test_text_without_a_call_comes_out_as_written(
    name: str, text: str, whole: bool
) -> None:
    reply = _parse(text, name, whole=whole, reasoning=None)
    if not reply.calls:
        assert reply.content == text
    elif not whole:
        # Until the first call, and all that is passed on of it, too.
        first = reply.merged[0]
        if isinstance(first, list):
            assert text.startswith(first[1])


_NOTATION = re.compile(
    r"\s|" + "|".join(map(re.escape, sorted(_FRAGMENTS, key=len, reverse=True)))
)
_KEPT = ("hello", "é😀", "1", "true", "a=")


@pytest.mark.parametrize(
    "name", [n for n in BY_NAME if n not in ("qwen_xml", "pythonic", "llama_json")]
)
@given(text=_SOUP)
@settings(max_examples=60, deadline=None)
def test_what_is_passed_on_and_the_notation_make_up_the_reply(
    name: str, text: str
) -> None:
    reply = _parse(text, name, reasoning=None)
    passed = [part[1] for part in reply.merged if isinstance(part, list)]
    assert all(isinstance(part, str) for part in passed)
    notation = rf"(?:(?!{'|'.join(_KEPT)}).)*"
    # Arguments that some models quote are passed on without, and none as {}.
    pattern = notation.join(["", *map(_as_pattern, passed), ""])
    assert re.fullmatch(pattern, text, re.DOTALL)


def _as_pattern(part: str) -> str:
    return f"(?:{re.escape(part)})?" if part == "{}" else re.escape(part)


@given(text=_SOUP, inside=st.booleans())
@settings(max_examples=150, deadline=None)
def test_only_markers_and_whitespace_are_taken_from_a_thought(
    text: str, inside: bool
) -> None:
    reply = parse([text], OutputSyntax(THINK), [], in_reasoning=inside)
    assert not reply.calls
    opening = r"\s*<think>\s*"
    lead = rf"(?:{opening}|\s*)" if inside else opening
    if inside or re.match(opening, text):
        first = re.match(rf"{lead}(.*?)(?:</think>\s*(.*))?\Z", text, re.DOTALL)
        assert first is not None
        rest = first[2] or ""
        again = re.match(opening, rest)
        assert reply.reasoning.startswith(first[1])
        if not again:
            assert (reply.reasoning, reply.content) == (first[1], rest)
    else:
        assert (reply.reasoning, reply.content) == ("", text)


@pytest.mark.parametrize(
    ("text", "inside", "reasoning", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Hm.\n", "Yes."),
        ("\n<think>Hm.</think>Yes.", False, "Hm.", "Yes."),
        ("Hm.\n</think>\n\nYes.", True, "Hm.\n", "Yes."),
        ("<think>\nHm.</think> Yes.", True, "Hm.", "Yes."),
        ("\n\n</think>\n\nYes.", True, "", "Yes."),
        ("<think>\nHm, and then", False, "Hm, and then", ""),
        ("Hm, and <tool_call>{", True, "Hm, and <tool_call>{", ""),
        ("Say <think> for me.", False, "", "Say <think> for me."),
        ("  Yes. ", False, "", "  Yes. "),
        ("<thinker>", False, "", "<thinker>"),
        ("<think>a</think>\n<think>b</think>c", False, "ab", "c"),
    ],
)
def test_thoughts(text: str, inside: bool, reasoning: str, content: str) -> None:
    reply = _parse(text, "hermes", range(len(text)), inside=inside)
    assert (reply.reasoning, reply.content) == (reasoning, content)


def test_a_thought_is_passed_on_while_it_is_written() -> None:
    whole = parse(["<think>so far </thi"], OutputSyntax(THINK), [])
    assert whole.merged == [["reasoning", "so far </thi"]]


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n<think>\nI was thi", True),
        ("what is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("what is </think>?<|im_end|>\n<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n", False),
    ],
)
def test_a_prompt_may_open_the_thought(prompt: str, opened: bool) -> None:
    special = frozenset({"<|im_start|>", "<|im_end|>"})
    known = ReasoningSyntax("<think>", "</think>", special_tokens=special)
    assert opens_reasoning(prompt, known) is opened
    assert not opens_reasoning(prompt, None)


@pytest.mark.parametrize(
    ("name", "text", "merged", "unparsed"),
    [
        pytest.param(
            "hermes", '<tool_call>{"name": "f"}</tool_call>',
            [("start", 0, "f"), [0, "{}"], ("end", 0, True)], 0,
            id="no arguments at all",
        ),
        pytest.param(
            "hermes",
            '<tool_call>[{"type": "function", "function": {"name": "f", '
            '"arguments": {}}}]</tool_call>',
            [("start", 0, "f"), [0, "{}"], ("end", 0, True)], 0, id="as in the API",
        ),
        pytest.param(
            "hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>',
            [("start", 0, "f"), [0, '{"a": 1}'], ("end", 0, True)], 0,
            id="the name last",
        ),
        pytest.param(
            "hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}\n</tool_call> ok',
            [("start", 0, "f"), [0, '{"a": 1}'], ("end", 0, True), ["content", "ok"]],
            0, id="a brace too few",
        ),
        pytest.param(
            "hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call>',
            [("start", 0, "f"), [0, '{"a": 1}'], ("end", 0, True),
             ["content", "}</tool_call>"]],
            0, id="a brace too many",
        ),
        pytest.param(
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}</tool_call>',
            [("start", 0, "f"), [0, '{"a": "x\\ny"}'], ("end", 0, True)], 0,
            id="a newline in a string",
        ),
        pytest.param(
            "hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>',
            [("start", 0, "f"), [0, "{}"], ("end", 0, True)], 0, id="null arguments",
        ),
        pytest.param(
            "hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            [["content", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>']], 1,
            id="arguments that are no object",
        ),
        pytest.param(
            "hermes", '<tool_call>{"tool": "f"}</tool_call> and on',
            [["content", '<tool_call>{"tool": "f"}</tool_call> and on']], 1,
            id="an unknown shape",
        ),
        pytest.param(
            "hermes", '<tool_call><tool_call>{"name": "f"}</tool_call>',
            [["content", "<tool_call>"], ("start", 0, "f"), [0, "{}"],
             ("end", 0, True)],
            1, id="the marker twice",
        ),
        pytest.param(
            "hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
            [("start", 0, "unknown"), [0, "{}"], ("end", 0, True)], 0,
            id="an undeclared tool between markers is a call",
        ),
        pytest.param(
            "hermes", "<tool_call>\n<function=f>\n</function>\n</tool_call>",
            [("start", 0, "f"), [0, "{}"], ("end", 0, True)], 0,
            id="tags where JSON is expected",
        ),
        pytest.param(
            "qwen_xml",
            "I call <function=f>\n<parameter=a>\n5\n</parameter>\n</function>",
            [["content", "I call "], ("start", 0, "f"), [0, '{"a": 5}'],
             ("end", 0, True)],
            0, id="the outer tags left out",
        ),
        pytest.param(
            "qwen_xml", '<tool_call>{"name": "f"}</tool_call>',
            [("start", 0, "f"), [0, "{}"], ("end", 0, True)], 0,
            id="JSON where tags are expected",
        ),
        pytest.param(
            "qwen_xml",
            "<tool_call><function=f><parameter=a>five</function></tool_call>",
            [("start", 0, "f"), [0, '{"a": "five"}'], ("end", 0, True)], 0,
            id="no end of the parameter, and no integer",
        ),
        pytest.param(
            "llama_json", '{"name": "h", "parameters": {}}',
            [["content", '{"name": "h", "parameters": {}}']], 0,
            id="an undeclared tool without a marker is text",
        ),
        pytest.param(
            "llama_json", '<|python_tag|>{"name": "h", "parameters": {}}',
            [("start", 0, "h"), [0, "{}"], ("end", 0, True)], 0,
            id="an undeclared tool behind the tag is a call",
        ),
        pytest.param(
            "llama_json", '{"type": "function", "name": "f", "parameters": {"a": 1}}',
            [("start", 0, "f"), [0, '{"a": 1}'], ("end", 0, True)], 0,
            id="a type before the name",
        ),
        pytest.param(
            "llama_json", '{"name": "f", "parameters": {"a": 1}} ; done',
            [("start", 0, "f"), [0, '{"a": 1}'], ("end", 0, True),
             ["content", "; done"]],
            0, id="a semicolon that ends no call",
        ),
        pytest.param(
            "llama_json", 'See {"name": "f", "parameters": {}}',
            [["content", 'See {"name": "f", "parameters": {}}']], 0,
            id="JSON within text",
        ),
        pytest.param(
            "pythonic", "<|python_start|>[f(a=-1.5e3, b=[True, None],)]<|python_end|>",
            [("start", 0, "f"), [0, '{"a": -1.5e3, "b": [true, null]}'],
             ("end", 0, True)],
            0, id="python between markers",
        ),
        pytest.param(
            "pythonic", "[f(1)]",
            [("start", 0, "f"), ("end", 0, False), ["content", "1)]"]], 1,
            id="a positional argument",
        ),
        pytest.param(
            "pythonic", "[h(a=1)]", [["content", "[h(a=1)]"]], 0,
            id="an undeclared function",
        ),
        pytest.param(
            "mistral", "[TOOL_CALLS]f{}[TOOL_CALLS]g[CALL_ID]9[ARGS]{}",
            [("start", 0, "f"), [0, "{}"], ("end", 0, True),
             ("start", 1, "g"), [1, "{}"], ("end", 1, True)],
            0, id="marker before every call",
        ),
        pytest.param(
            "mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"nam": 1}]',
            [("start", 0, "f"), [0, "{}"], ("end", 0, True),
             ["content", ', {"nam": 1}]']],
            1, id="a good call and a bad one",
        ),
        pytest.param(
            "cohere", "Action: none needed. ```json\n[]```",
            [["content", "Action: none needed. ```json\n[]```"]], 0,
            id="a word like the marker",
        ),
        pytest.param(
            "deepseek_v3",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```"
            "<｜tool▁call▁end｜>",
            [("start", 0, "f"), [0, "{}"], ("end", 0, True)], 0,
            id="the outer marker left out",
        ),
        pytest.param(
            "deepseek_v31",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{}"
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [("start", 0, "function"), [0, "{}"], ("end", 0, True)], 0,
            id="a tool with the name of the kind",
        ),
        pytest.param(
            "phi", "from functools[0] import",
            [["content", "from functools[0] import"]], 0, id="a module",
        ),
        pytest.param(
            "generic", '{"answer": 42}', [["content", '{"answer": 42}']], 0,
            id="JSON that is the answer",
        ),
        pytest.param(
            "generic", '{"name": "f", "arguments": "{\\"a\\": 1}"}\n',
            [("start", 0, "f"), [0, '{"a": 1}'], ("end", 0, True)], 0,
            id="arguments in quotes",
        ),
        pytest.param(
            "generic", '```json\n{"name": "f", "arguments": {"a": 1}}\n```\n',
            [("start", 0, "f"), [0, '{"a": 1}'], ("end", 0, True)], 0,
            id="a block of code",
        ),
        pytest.param(
            "generic", '```json\n{"answer": 42}\n```',
            [["content", '```json\n{"answer": 42}\n```']], 0,
            id="a block of code that is the answer",
        ),
    ],
)  # fmt: skip
def test_calls(name: str, text: str, merged: list[object], unparsed: int) -> None:
    reply = _parse(text, name, range(len(text)))
    assert reply.merged == merged
    assert reply.unparsed == unparsed


def test_a_broken_call_is_text_where_calls_are_passed_on_whole() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": oops}}</tool_call>'
    streamed, whole = _parse(text, "hermes"), _parse(text, "hermes", whole=True)
    assert streamed.incomplete == [0]
    assert streamed.content == "oops}}</tool_call>"
    assert whole.merged == [["content", text]]
    assert streamed.unparsed == whole.unparsed == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
        ("hermes", "<tool_call>{}</tool_call>"),
        ("hermes", "<tool_call>oops</tool_call>"),
        ("hermes", '<tool_call>{"name": "f", "name": "g"}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}, "arguments": {}, "name": "f"}'),
        ("hermes", '<tool_call>{"name": "f", "arguments": "oops"}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\\d"}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\\u00x0"}}'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 01}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a" 1}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "\\ud83d", "arguments": {}}</tool_call>'),
        ("qwen_xml", "<tool_call><function=></function></tool_call>"),
        ("qwen_xml", "<tool_call><function=f>a=1</function></tool_call>"),
        ("qwen_xml", "<function=f><parameter=a>1</parameter><parameter=a></function>"),
        ("pythonic", "[f(a=1, a=2)]"),
        ("pythonic", "[f(a=b)]"),
        ("mistral", "[TOOL_CALLS]f[ARGS][]"),
        ("deepseek_v31", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>1"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n[]```"),
    ],
)  # fmt: skip
def test_what_is_broken_comes_out_as_written(name: str, text: str) -> None:
    reply = _parse(text, name, range(len(text)), whole=True)
    assert reply.merged == [["content", text]]
    assert reply.unparsed == 1


def test_a_format_that_reads_nothing_gets_no_second_try() -> None:
    class Picky(Hermes):
        def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
            yield from reader.sees("never")
            raise NotACallError

    text = "<tool_call><tool_call>"
    assert parse([text], OutputSyntax(None, Picky()), TOOLS).content == text


def test_without_tools_what_looks_like_a_call_is_text() -> None:
    text = '<tool_call>{"name": "f"}</tool_call>'
    assert parse([text], syntax("hermes"), []).content == text
    assert parse([text], syntax("hermes").without_tools(), TOOLS).content == text


def test_json_nested_without_end_is_text() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * 5000
    reply = _parse(text, "hermes", whole=True)
    assert reply.content == text
    assert reply.unparsed == 1
