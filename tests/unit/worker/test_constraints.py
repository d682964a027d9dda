"""Structured output, calls and thoughts in one constraint."""

from typing import Any

import numpy as np
import pytest

from neuron.engines.base import TokenConstraint
from neuron.protocol.errors import ApiError
from neuron.text.grammar import GrammarCompiler
from neuron.text.output import OutputSyntax, recognise
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.constraints import Thought, Wanted, limited
from neuron.worker.schema import ChatBody
from neuron.worker.toolset import Toolset
from tests.unit.worker.scripted_engine import INFO

FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"enum": ["yes", "no"]}},
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "go",
        "parameters": {
            "type": "object",
            "properties": {"far": {"type": "boolean"}},
            "required": ["far"],
            "additionalProperties": False,
        },
    },
}
STRICT = {**TOOL, "function": {**TOOL["function"], "strict": True}}
ANSWER = '"yes"'
CALL = '<tool_call>\n{"name": "go", "arguments": {"far": true}}\n</tool_call>'
INVALID = CALL.replace("true", "1")
MAY = Thought("<think>", "</think>", open=False)
MUST = Thought("<think>", "</think>", open=True)


@pytest.fixture(scope="module")
def syntax(tokenizer: TextTokenizer) -> OutputSyntax:
    return recognise("<tool_call> {{ tools }} </think>", tokenizer)


async def constraint(
    grammars: GrammarCompiler,
    syntax: OutputSyntax,
    thought: Thought | None,
    **fields: Any,
) -> TokenConstraint | None:
    messages = [{"role": "user", "content": "Hi"}]
    body = ChatBody.model_validate({"model": "m", "messages": messages, **fields})
    wanted = Wanted.of(body, Toolset.of(body), syntax)
    await wanted.check(grammars)
    return await wanted.compiled(grammars, thought)


@pytest.fixture(scope="module")
def spellings(tokenizer: TextTokenizer) -> dict[int, bytes]:
    """What each token adds to a text."""
    found = {}
    for token in range(3, INFO.vocab_size):
        byte = tokenizer.byte_of(token)
        text = tokenizer.token(token).replace("▁", " ").encode()
        found[token] = text if byte is None else bytes([byte])
    return found


def takes(
    constraint: TokenConstraint | None, text: str, spellings: dict[int, bytes]
) -> bool:
    """Whether that is a whole output, in the longest tokens that are allowed."""
    assert constraint is not None
    rest = text.encode()
    while rest:
        bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        fitting = [
            (len(spelling), token)
            for token, spelling in spellings.items()
            if bits[token] and rest.startswith(spelling)
        ]
        if not fitting:
            return False
        length, token = max(fitting)
        constraint.accept(token)
        rest = rest[length:]
    return constraint.may_end()


@pytest.mark.parametrize(
    ("fields", "outputs"),
    [
        ({"response_format": FORMAT}, {ANSWER}),
        ({"response_format": FORMAT, "tools": [TOOL]}, {ANSWER, CALL}),
        (
            {"response_format": FORMAT, "tools": [TOOL], "tool_choice": "none"},
            {ANSWER},
        ),
        (
            {"response_format": FORMAT, "tools": [TOOL], "tool_choice": "required"},
            {CALL},
        ),
        ({"tools": [TOOL], "tool_choice": "required"}, {CALL}),
        ({"guided_choice": [ANSWER]}, {ANSWER}),
    ],
)
@pytest.mark.parametrize(
    ("thought", "before"),
    [
        (None, {""}),
        (MAY, {"", "<think>or {</think>\n\n"}),
        (MUST, {"<think>or {</think>\n\n", "or {</think>\n\n", "</think>"}),
    ],
    ids=["no thought", "may think", "thinks"],
)
async def test_what_an_output_may_be(
    grammars: GrammarCompiler,
    syntax: OutputSyntax,
    spellings: dict[int, bytes],
    fields: dict[str, Any],
    outputs: set[str],
    thought: Thought | None,
    before: set[str],
) -> None:
    for output in (ANSWER, CALL, '"perhaps"', CALL + CALL.replace("true", "1")):
        for start in ("", "<think>or {</think>\n\n", "or {</think>\n\n", "</think>"):
            made = await constraint(grammars, syntax, thought, **fields)
            expected = output in outputs and start in before
            assert takes(made, start + output, spellings) is expected, start + output


@pytest.mark.parametrize("parallel", [False, True])
async def test_one_call_or_several(
    grammars: GrammarCompiler,
    syntax: OutputSyntax,
    spellings: dict[int, bytes],
    parallel: bool,
) -> None:
    fields = {"tool_choice": "required", "parallel_tool_calls": parallel}
    made = await constraint(grammars, syntax, None, tools=[TOOL], **fields)
    assert takes(made, f"{CALL}\n{CALL}", spellings) is parallel


async def test_nothing_binds_what_asks_for_nothing(
    grammars: GrammarCompiler, syntax: OutputSyntax, tokenizer: TextTokenizer
) -> None:
    for fields in (
        {},
        {"tools": [TOOL]},
        {"tools": [STRICT], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
    ):
        assert await constraint(grammars, syntax, MUST, **fields) is None
    unlimited = limited(
        None, 5, syntax=OutputSyntax(), in_reasoning=False, tokenizer=tokenizer, vocab=9
    )
    assert unlimited is None


@pytest.mark.parametrize("wrong", [{"type": "odd"}, {"$ref": "#/nowhere"}])
async def test_parameters_that_are_no_schema_are_refused_where_they_bind(
    grammars: GrammarCompiler, syntax: OutputSyntax, wrong: dict[str, Any]
) -> None:
    parameters = {"type": "object", "properties": {"a": wrong}}
    function = {"name": "f", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    assert await constraint(grammars, syntax, None, tools=tools) is None
    with pytest.raises(ApiError) as refusal:
        await constraint(grammars, syntax, None, tools=tools, tool_choice="required")
    assert (refusal.value.status, refusal.value.param) == (400, "tools")


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}])
@pytest.mark.parametrize(
    ("thought", "before"),
    [
        (None, ""),
        (MAY, ""),
        (MAY, "<think>or {\n<tool_call>x</think>\n\n"),
        (MUST, "a</think>"),
    ],
)
async def test_calls_of_strict_tools_that_may_be_made(
    grammars: GrammarCompiler,
    syntax: OutputSyntax,
    spellings: dict[int, bytes],
    thought: Thought | None,
    before: str,
    choice: dict[str, str],
) -> None:
    for output, fits in (
        ("", True),
        ("So it is.", True),
        (CALL, True),
        ("So it is.\n" + CALL, True),
        (f"{CALL}\n{CALL}", True),
        (INVALID, False),
        ("So it is.\n" + INVALID, False),
        (CALL.replace("go", "do"), False),
    ):
        made = await constraint(grammars, syntax, thought, tools=[STRICT], **choice)
        assert takes(made, before + output, spellings) is fits, output
    fields = {"response_format": FORMAT, "tools": [STRICT], **choice}
    for output, fits in ((ANSWER, True), (CALL, True), (INVALID, False), ("So", False)):
        made = await constraint(grammars, syntax, thought, **fields)
        assert takes(made, before + output, spellings) is fits, output


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_strict_tool_that_cannot_be_enforced_is_refused_by_name(
    grammars: GrammarCompiler, syntax: OutputSyntax, choice: str
) -> None:
    parameters = {"type": "object", "properties": {"a": {"not": {}}}}
    function = {"name": "f", "parameters": parameters, "strict": True}
    tools = [TOOL, {"type": "function", "function": function}]
    with pytest.raises(ApiError) as refusal:
        await constraint(grammars, syntax, None, tools=tools, tool_choice=choice)
    assert (refusal.value.status, refusal.value.param) == (
        400,
        "tools[1].function.parameters",
    )
    assert refusal.value.message == (
        "tools[1].function.parameters of the strict tool 'f':"
        " #/properties/a/not: not is not supported"
    )
