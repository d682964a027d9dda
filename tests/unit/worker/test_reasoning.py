"""Thoughts before answers."""

from typing import Any

import pytest

from tests.unit.worker.conftest import Start

OPENED = "{% for m in messages %}{{ m.content }}\n{% endfor %}<think>\n"
"""The template opens the thought."""
KNOWN = "{% for m in messages %}{{ m.content }}\n{% endfor %}{# </think> #}"
"""The model opens it."""
CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Hi"}],
}


def told(chunks: list[Any], field: str) -> str:
    return "".join(
        choice["delta"].get(field) or ""
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [(OPENED, "so it is.</think>\n\nYes."), (KNOWN, "<think>so it is.</think>Yes.")],
    ids=["opened by the template", "opened by the model"],
)
async def test_a_thought_is_told_apart(start: Start, template: str, text: str) -> None:
    async with start(text, template=template) as worker:
        _, whole = await worker.chat()
        chunks = await worker.stream("/v1/chat/completions", CHAT)
    message = whole["choices"][0]["message"]
    assert message["reasoning_content"].strip() == "so it is."
    assert message["content"] == "Yes."
    assert told(chunks, "reasoning_content") == message["reasoning_content"]
    assert told(chunks, "content") == "Yes."
    counts = whole["usage"], chunks[-2]["usage"]
    for usage in counts:
        thought = usage["completion_tokens_details"]["reasoning_tokens"]
        assert 4 <= thought < usage["completion_tokens"] - 2


async def test_without_a_thought_none_is_told(start: Start) -> None:
    async with start("Yes.", template=KNOWN) as worker:
        _, whole = await worker.chat()
    assert "reasoning_content" not in whole["choices"][0]["message"]
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_a_thought_can_be_left_out(start: Start) -> None:
    async with start("hm</think>Yes.", template=OPENED) as worker:
        _, whole = await worker.chat(include_reasoning=False)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Yes."}
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_stop_strings_are_looked_for_after_the_thought(start: Start) -> None:
    async with start("a b c</think>x b y", template=OPENED) as worker:
        _, whole = await worker.chat(stop=" b")
    choice = whole["choices"][0]
    assert choice["message"]["reasoning_content"].strip() == "a b c"
    assert choice["message"]["content"] == "x"
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, "--"),
        ({"enable_thinking": False}, "False-"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "True-"),
        ({"reasoning_effort": "low"}, "-low"),
        ({"reasoning_effort": "none"}, "False-none"),
    ],
)
async def test_what_the_template_is_told(
    start: Start, fields: dict[str, Any], variables: str
) -> None:
    template = (
        "{{ messages[0].content }}:{{ enable_thinking if enable_thinking is defined }}-"
        "{{ reasoning_effort if reasoning_effort is defined }}"
        "{% if reasoning_effort is not defined and enable_thinking is not defined %}-"
        "{% endif %}"
    )
    async with start("x", template=template) as worker:
        await worker.chat(**fields)
        text = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
    assert text == f"Hi:{variables}"


async def test_a_template_may_call_it_thinking(start: Start) -> None:
    template = "{{ messages[0].content }}{{ ':thinks' if thinking }}"
    async with start("x", template=template) as worker:
        await worker.chat(enable_thinking=True)
        await worker.chat(enable_thinking=False)
        texts = [worker.tokenizer.decode(r.prompt_ids) for r in worker.engine.seen]
    assert texts == ["Hi:thinks", "Hi"]


@pytest.mark.parametrize(
    "fields", [{"enable_thinking": False}, {"reasoning_effort": "none"}]
)
async def test_an_unwanted_thought_that_the_template_opens_is_closed(
    start: Start, fields: dict[str, Any]
) -> None:
    async with start("Yes.", template=OPENED) as worker:
        _, whole = await worker.chat(**fields)
        text = worker.tokenizer.decode(worker.engine.seen[-1].prompt_ids)
    assert text == "Hi\n<think>\n\n</think>\n\n"
    message = whole["choices"][0]["message"]
    assert message["content"].strip() == "Yes."
    assert "reasoning_content" not in message


@pytest.mark.parametrize("budget", [None, 0, 7])
async def test_a_budget_binds_models_that_think(
    start: Start, budget: int | None
) -> None:
    async with start("hm</think>x", template=OPENED) as worker:
        await worker.chat(thinking_token_budget=budget)
        assert (worker.engine.seen[-1].constraint is None) is (budget is None)
    async with start("x", template="{{ messages[0].content }}") as worker:
        await worker.chat(thinking_token_budget=budget)
        assert worker.engine.seen[-1].constraint is None
