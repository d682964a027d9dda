"""Tools and thoughts through the gateway, as agents use them with the OpenAI client."""

import asyncio
import json
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from tests.clients.conftest import AGENT
from tests.support.processes import Process

ASK: Any = [{"role": "user", "content": "What is the time?"}]
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["utc", "cet"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
BUDGET: Any = {"thinking_token_budget": 6}
ONE_CALL: Any = {
    "model": AGENT,
    "messages": ASK,
    "tools": [CLOCK],
    "parallel_tool_calls": False,
    "max_completion_tokens": 120,
    "extra_body": BUDGET,
}


def ask(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    answer: ChatCompletion = client.chat.completions.create(**ONE_CALL | fields)
    return answer


def test_a_tool_is_called_and_its_result_read(client: openai.OpenAI) -> None:
    called = ask(client, tool_choice="required")
    (choice,) = called.choices
    assert choice.finish_reason == "tool_calls"
    said: Any = choice.message.to_dict()
    (call,) = said["tool_calls"]
    assert json.loads(call["function"]["arguments"])["zone"] in ("utc", "cet")
    # What came back goes into the next request as it is.
    result = {"role": "tool", "tool_call_id": call["id"], "content": "12:30"}
    answered = ask(
        client, messages=[*ASK, said, result], tool_choice="none",
        max_completion_tokens=40,
    )  # fmt: skip
    assert answered.choices[0].message.tool_calls is None
    assert answered.usage is not None
    details = answered.usage.completion_tokens_details
    assert details is not None
    assert 6 <= (details.reasoning_tokens or 0) < answered.usage.completion_tokens


async def test_the_streaming_helper_puts_calls_together(gateway: Process) -> None:
    async with (
        openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key="x", max_retries=0
        ) as client,
        client.chat.completions.stream(**ONE_CALL, tool_choice="required") as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    for call in choice.message.tool_calls or ():
        assert json.loads(call.function.arguments)["zone"] in ("utc", "cet")


async def test_many_ask_at_once_and_some_leave(gateway: Process) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="x", max_retries=0
    ) as client:

        async def leave_or_stay(index: int) -> str | None:
            stream = await client.chat.completions.create(
                model=AGENT, messages=ASK, stream=True, seed=index,
                max_completion_tokens=40, extra_body=BUDGET,
            )  # fmt: skip
            async with stream:
                async for chunk in stream:
                    if index % 2:
                        return None  # It has heard enough.
                    reason = chunk.choices[0].finish_reason
                    if reason is not None:
                        return reason
            raise AssertionError("the stream ended without a reason")

        reasons = await asyncio.gather(*map(leave_or_stay, range(12)))
    assert {*reasons[1::2]} == {None}
    assert {*reasons[::2]} <= {"stop", "length"}
