"""The model with a long context, which clients' tests rely on, and long prompts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron.protocol import routes
from neuron.text.chat import ChatTemplate
from neuron.text.template_traits import ToolSupport
from tests.integration.neuron.conftest import Neuron, client_of
from tests.support.long_context import LONG_CONTEXT, TEMPLATE, long_context_model
from tests.support.processes import running_neuron, temporary_home

MANUAL = " ".join(f"Page {page} tells of the small red dog." for page in range(1800))
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "sure": {"type": ["boolean", "null"]},
    },
    "required": ["city", "days", "tags", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def long() -> Iterator[Neuron]:
    with temporary_home() as home:
        long_context_model(home.models)
        with running_neuron(home) as process, client_of(process) as neuron:
            neuron.load(model=LONG_CONTEXT, slots=2)
            yield neuron


def asked(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": LONG_CONTEXT, "messages": messages, "temperature": 0, **fields}


def answer(neuron: Neuron, body: dict[str, Any]) -> dict[str, Any]:
    response = neuron.post(routes.V1_CHAT_COMPLETIONS, body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_equal_bytes_every_time(tmp_path: Path) -> None:
    one, other = (long_context_model(tmp_path / name) for name in "ab")
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()


def test_a_prompt_of_20000_tokens_is_told_in_the_first_chunk_with_its_cached_ones(
    long: Neuron,
) -> None:
    usage = {"include_usage": True, "continuous_usage_stats": True}
    body = asked(MANUAL, stream_options=usage)
    counting = {**asked(MANUAL), "return_tokens": False}
    counted = long.post(routes.V1_TOKENIZE, counting).json()["count"]
    assert counted > 20_000
    told = []
    for _ in range(2):
        with long.stream(body, routes.V1_CHAT_COMPLETIONS) as events:
            *chunks, done = [event.data for event in events]
        assert done == "[DONE]"
        first, last = (json.loads(chunk)["usage"] for chunk in (chunks[0], chunks[-1]))
        assert first["prompt_tokens"] == last["prompt_tokens"] == counted
        assert first["prompt_tokens_details"] == last["prompt_tokens_details"]
        told.append(first["prompt_tokens_details"]["cached_tokens"])
    assert told[0] == 0
    assert counted - 256 <= told[1] < counted


def test_answers_end_by_themselves(long: Neuron) -> None:
    texts = set()
    for start in range(0, 8000, 1000):
        body = asked(Path(__file__).read_text(encoding="utf-8")[start:])
        told = answer(long, body)
        choice = told["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert 8 <= told["usage"]["completion_tokens"] <= 48
        assert choice["message"]["content"].endswith(".")
        texts.add(choice["message"]["content"])
        assert answer(long, body)["choices"][0]["message"] == choice["message"]
    assert len(texts) > 1


@pytest.mark.parametrize("temperature", [0, 1])
def test_so_do_calls_and_structured_output(long: Neuron, temperature: float) -> None:
    function = {"name": "weather", "parameters": CITY}
    called = answer(
        long,
        asked(
            "How is the weather?",
            temperature=temperature,
            seed=1,
            tools=[{"type": "function", "function": function}],
            tool_choice="required",
        ),
    )["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    call = called["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather"
    assert json.loads(call["arguments"]).keys() == set(CITY["required"])
    schema = {"name": "city", "schema": CITY}
    written = answer(
        long,
        asked(
            "Where to?",
            temperature=temperature,
            seed=1,
            response_format={"type": "json_schema", "json_schema": schema},
        ),
    )["choices"][0]
    assert written["finish_reason"] == "stop"
    assert json.loads(written["message"]["content"])["city"]


def test_its_template_shows_all_there_is() -> None:
    template = ChatTemplate(TEMPLATE, {})
    assert template.tool_support(tools=True) == ToolSupport("variable", history=True)
    call = {"name": "look", "arguments": {"at": "the sea"}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look!"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "blue"},
        {"role": "developer", "content": "Go on."},
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    text = template.render(messages, tools=tools, add_generation_prompt=True)
    assert json.dumps(tools[0]) in text
    for told in (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nLook!<|im_end|>\n",
        '<tool_call>\n{"name": "look", "arguments": {"at": "the sea"}}\n</tool_call>',
        "<tool_response>\nblue\n</tool_response><|im_end|>\n",
        "<|im_start|>system\nGo on.<|im_end|>\n<|im_start|>assistant\n",
    ):
        assert told in text
