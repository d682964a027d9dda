"""Calls of tools: how a request asks for them, and how answers tell of them."""

import json
from typing import Any

import pytest

from neuron.engines.base import GenerationRequest
from neuron.text.tokenizer import TextTokenizer
from tests.unit.worker.conftest import Start, Worker

TEMPLATE = (
    "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
)
WITHOUT_TOOLS = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
WITHOUT_CALLS = TEMPLATE.replace("for m in messages", "for m in messages if m.content")
LOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "look somewhere",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
GO = {"type": "function", "function": {"name": "go"}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "the sun"}}\n</tool_call>'
SECOND = '\n<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call>'
CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": [LOOK, GO],
}

CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "Look!"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"at": "it"}'},
            }
        ],
    },
]
RESULT = {"role": "tool", "tool_call_id": "1", "content": "bright"}


def deltas(chunks: list[Any]) -> list[dict[str, Any]]:
    return [
        choice["delta"]
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
    ]


def arguments(calls: list[dict[str, Any]], index: int = 0) -> Any:
    parts = [c["function"]["arguments"] for c in calls if c["index"] == index]
    return json.loads("".join(parts))


async def test_a_whole_answer_has_the_calls(start: Start) -> None:
    async with start(CALL + SECOND, template=TEMPLATE) as worker:
        status, answer = await worker.chat(tools=[LOOK, GO])
    assert status == 200
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    look, go = choice["message"]["tool_calls"]
    assert look["type"] == go["type"] == "function"
    assert look["id"] != go["id"]
    assert look["function"]["name"] == "look"
    assert json.loads(look["function"]["arguments"]) == {"at": "the sun"}
    assert go["function"] == {"name": "go", "arguments": "{}"}


async def test_a_stream_has_the_name_first_and_then_the_arguments(
    start: Start,
) -> None:
    async with start("I will.\n" + CALL, template=TEMPLATE) as worker:
        chunks = await worker.stream("/v1/chat/completions", CHAT)
    told = deltas(chunks)
    assert told[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content") or "" for d in told).strip() == "I will."
    calls = [call for delta in told for call in delta.get("tool_calls", [])]
    first, *rest = calls
    assert (first["type"], first["function"]["name"]) == ("function", "look")
    assert first["id"]
    assert first["function"]["arguments"] == ""
    assert rest
    assert all(set(call) == {"index", "function"} for call in rest)
    assert arguments(calls) == {"at": "the sun"}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_without_parallel_calls_the_first_is_the_last(start: Start) -> None:
    async with start(CALL + SECOND, template=TEMPLATE) as worker:
        body = CHAT | {"parallel_tool_calls": False}
        _, whole = await worker.post("/v1/chat/completions", body)
        chunks = await worker.stream("/v1/chat/completions", body)
    (choice,) = whole["choices"]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    calls = [c for delta in deltas(chunks) for c in delta.get("tool_calls", [])]
    assert {call["index"] for call in calls} == {0}
    assert arguments(calls) == {"at": "the sun"}


async def test_a_broken_call_is_text_and_counted(start: Start) -> None:
    broken = '<tool_call>\n{"name": "look", "arguments": {"at": the sun}}'
    async with start(broken, template=TEMPLATE) as worker:
        _, whole = await worker.chat(tools=[LOOK])
        assert worker.tally.unparsed_calls == 1
        chunks = await worker.stream("/v1/chat/completions", CHAT)
        assert worker.tally.unparsed_calls == 2
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].strip() == broken
    assert "tool_calls" not in choice["message"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("fields", [{}, {"tools": [LOOK], "tool_choice": "none"}])
async def test_where_no_tool_may_be_called_a_call_is_text(
    start: Start, fields: dict[str, Any]
) -> None:
    async with start(CALL, template=TEMPLATE) as worker:
        _, whole = await worker.chat(**fields)
    (choice,) = whole["choices"]
    assert choice["message"]["content"].strip() == CALL
    assert choice["finish_reason"] == "stop"


async def seen(worker: Worker, **fields: Any) -> GenerationRequest:
    """What the engine is asked for."""
    status, answer = await worker.chat(**fields)
    assert status == 200, answer
    return worker.engine.seen[-1]


async def test_the_template_is_told_of_the_tools_that_may_be_called(
    start: Start,
) -> None:
    def allowed(mode: str) -> dict[str, Any]:
        named = [{"type": "function", "function": {"name": "go"}}]
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": mode, "tools": named},
        }

    async with start("x", template=TEMPLATE) as worker:
        prompts = []
        for choice in ("auto", "none", allowed("auto"), allowed("required")):
            request = await seen(worker, tools=[LOOK, GO], tool_choice=choice)
            prompts.append(
                (
                    worker.tokenizer.decode(request.prompt_ids),
                    request.constraint is not None,
                )
            )
    told = [("look somewhere" in text, '"go"' in text, must) for text, must in prompts]
    assert told == [
        (True, True, False),
        (False, False, False),
        (False, True, False),
        (False, True, True),
    ]


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({"tool_choice": "auto"}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "function": {"name": "go"}}}, True),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "text"}}, False),
    ],
)
async def test_what_binds_the_output(
    start: Start, fields: dict[str, Any], bound: bool
) -> None:
    async with start("x", template=TEMPLATE) as worker:
        request = await seen(worker, tools=[LOOK, GO], **fields)
    assert (request.constraint is not None) is bound


async def test_a_template_that_knows_no_tools_is_told_in_the_first_message(
    start: Start,
) -> None:
    messages = [{"role": "system", "content": "Be kind."}, *CALLED, RESULT]
    answer = '{"name": "look", "arguments": {"at": "me"}}'
    async with start(answer, template=WITHOUT_TOOLS) as worker:
        _, whole = await worker.chat(messages=messages, tools=[LOOK])
        text = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
        await worker.chat(tools=[LOOK])
        alone = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
        await worker.chat(messages=messages)
        untold = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
    assert text.startswith("[system:Be kind.\n\nYou can call")
    assert '"description": "look somewhere"' in text
    assert '[assistant:{"name": "look", "arguments": {"at": "it"}}]' in text
    assert text.endswith("[user:The function returned:\nbright]")
    assert alone.startswith("[user:You can call")
    assert alone.endswith("}}\n\nHi]")
    assert untold.startswith("[system:Be kind.][user:Look!][assistant:{")
    assert untold.endswith("[user:The function returned:\nbright]")
    (made,) = whole["choices"][0]["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"at": "me"}


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "look", "arguments": {"at": "me"}}',
        '<tool_call>\n{"name": "look", "arguments": {"at": "me"}}\n</tool_call>',
        '```json\n{"name": "look", "arguments": {"at": "me"}}\n```',
    ],
)
@pytest.mark.parametrize(
    "template", [WITHOUT_TOOLS + "{# <tool_call> #}", WITHOUT_CALLS]
)
async def test_a_model_that_is_told_in_json_may_answer_in_its_own_notation(
    start: Start, template: str, answer: str
) -> None:
    async with start(answer, template=template) as worker:
        _, whole = await worker.chat(tools=[LOOK])
    (made,) = whole["choices"][0]["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"at": "me"}
    assert whole["choices"][0]["message"]["content"] is None


async def test_a_template_that_drops_calls_has_them_as_text(start: Start) -> None:
    async with start("x", template=WITHOUT_CALLS) as worker:
        await worker.chat(messages=[*CALLED, RESULT], tools=[LOOK])
        text = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
    assert text.startswith('<tool_call>[{"type": "function"')
    assert text.count("look somewhere") == 1
    assert text.endswith(
        '[user:Look!][assistant:{"name": "look", "arguments": {"at": "it"}}]'
        "[user:The function returned:\nbright]"
    )


async def test_a_template_that_drops_results_has_them_as_text(start: Start) -> None:
    template = TEMPLATE.replace(
        "{% for m in messages %}",
        "{% for m in messages if m.role != 'tool' %}"
        "{{ m.tool_calls | default | tojson }}",
    )
    async with start("x", template=template) as worker:
        await worker.chat(messages=[*CALLED, RESULT], tools=[LOOK])
        text = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
    assert text.endswith("[user:The function returned:\nbright]")


async def test_tools_that_stand_in_the_system_message_do_so(start: Start) -> None:
    template = WITHOUT_TOOLS.replace("m.content }}", "m.content }}|{{ m.tools }}")
    async with start("x", template=template) as worker:
        await worker.chat(tools=[GO])
        alone = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
        system = {"role": "developer", "content": "Be kind."}
        await worker.chat(messages=[system, *CALLED], tools=[GO])
        text = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
    assert alone == '[system:|[{"name": "go"}]][user:Hi|]'
    assert text.startswith('[system:Be kind.|[{"name": "go"}]][user:Look!|]')


async def test_an_image_is_refused_by_name_where_tools_are_told(start: Start) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    message = {"role": "user", "content": [part]}
    async with start("x", template=WITHOUT_TOOLS) as worker:
        status, answer = await worker.chat(messages=[message], tools=[LOOK])
    assert status == 400
    assert answer["error"]["param"] == "messages[0].content[0]"
    assert "image_url" in answer["error"]["message"]


async def test_a_model_without_a_template_sees_earlier_calls(start: Start) -> None:
    async with start("x") as worker:
        await worker.chat(messages=[*CALLED, RESULT])
        text = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
    assert '{"name": "look", "arguments": {"at": "it"}}' in text
    assert text.endswith("The function returned:\nbright")


async def test_a_call_that_breaks_off_in_a_stream_ends_as_it_is(
    start: Start, tokenizer: TextTokenizer
) -> None:
    text = '<tool_call>\n{"name": "look", "arguments": {"at": "the'
    tokens = tokenizer.encode(text, add_bos=False)
    async with start(lambda request: tokens, template=TEMPLATE) as worker:
        chunks = await worker.stream("/v1/chat/completions", CHAT)
        _, whole = await worker.chat(tools=[LOOK])
    calls = [c for delta in deltas(chunks) for c in delta.get("tool_calls", [])]
    told = "".join(call["function"]["arguments"] for call in calls)
    assert told == '{"at": "the'
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    (choice,) = whole["choices"]
    assert choice["message"]["content"].strip() == text
    assert choice["finish_reason"] == "length"
