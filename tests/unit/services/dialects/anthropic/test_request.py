"""The fields of a request beside the conversation."""

from typing import Any

import pytest

from neuron.protocol.errors import ApiError
from services.gateway.dialects.anthropic import translate_count, translate_messages
from services.gateway.dialects.base import Json

HELLO: Json = {
    "model": "claude-x",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}
SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL: Json = {"name": "f", "description": "does", "input_schema": SCHEMA}


def chat(**fields: Any) -> Json:
    return translate_messages(HELLO | fields).body


def test_little_is_said_where_little_is_asked() -> None:
    assert translate_messages(HELLO).path == "/v1/chat/completions"
    assert chat() == HELLO | {"enable_thinking": False}
    assert not translate_messages(HELLO).stream
    assert not translate_messages(HELLO | {"stream": False}).stream


def test_streams_tell_all_along_what_they_use() -> None:
    translation = translate_messages(HELLO | {"stream": True})
    assert translation.stream
    assert translation.body["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
    }


def test_sampling_is_passed_on() -> None:
    asked = {"temperature": 1, "top_p": 0.9, "top_k": 40}
    said = chat(**asked, stop_sequences=["a", "b"], metadata={"user_id": "u"})
    assert said == HELLO | asked | {
        "stop": ["a", "b"],
        "user": "u",
        "enable_thinking": False,
    }


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, {"enable_thinking": False}),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "between_tools"}, {"enable_thinking": False}),
        ({"type": "adaptive", "display": "omitted"}, {"enable_thinking": True}),
        (
            {"type": "enabled", "budget_tokens": 2048},
            {"enable_thinking": True, "thinking_token_budget": 2048},
        ),
    ],
)
def test_thinking_is_switched_and_bounded(thinking: Any, expected: Json) -> None:
    assert chat(thinking=thinking) == HELLO | expected


def test_effort_and_format_of_the_output() -> None:
    format_ = {"type": "json_schema", "schema": SCHEMA}
    asked = {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA}}
    said = chat(output_config={"effort": "max", "format": format_})
    assert said["reasoning_effort"] == "max"
    assert said["response_format"] == asked
    assert chat(output_format=format_)["response_format"] == asked
    assert chat(output_config={"effort": None, "format": None}) == chat()


def test_tools_are_functions() -> None:
    said = chat(tools=[TOOL | {"type": "custom", "strict": True, "cache_control": {}}])
    function = {
        "name": "f", "description": "does", "parameters": SCHEMA, "strict": True,
    }  # fmt: skip
    assert said["tools"] == [{"type": "function", "function": function}]
    assert "tool_choice" not in said
    assert chat(tools=[]) == chat()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        (
            {"type": "tool", "name": "f"},
            {"type": "function", "function": {"name": "f"}},
        ),
    ],
)
def test_every_choice_of_tools(choice: Json, expected: Any) -> None:
    said = chat(tools=[TOOL], tool_choice=choice)
    assert said["tool_choice"] == expected
    assert "parallel_tool_calls" not in said
    alone = chat(tools=[TOOL], tool_choice=choice | {"disable_parallel_tool_use": True})
    assert alone["parallel_tool_calls"] is False


def test_a_count_is_of_the_very_same_prompt() -> None:
    asked = {
        "system": "be nice",
        "tools": [TOOL],
        "thinking": {"type": "adaptive"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    without_limit = {k: v for k, v in HELLO.items() if k != "max_tokens"}
    count = translate_count(without_limit | asked)
    answered = chat(**asked, stream=True)
    for name in ("max_tokens", "stream", "stream_options"):
        del answered[name]
    assert count.path == "/v1/tokenize"
    assert not count.stream
    assert count.body == answered | {"return_tokens": False}
    assert count.whole({"count": 7, "max_model_len": 9}) == {"input_tokens": 7}
    with pytest.raises(KeyError):
        count.whole({"tokens": []})


def test_what_agents_send_besides_is_tolerated() -> None:
    translation = translate_messages(
        HELLO
        | {
            "metadata": {"user_id": None},
            "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
            "betas": ["x"],
            "service_tier": "auto",
            "cache_control": {"type": "ephemeral"},
            "speed": None,
            "mcp_servers": [],
            "container": None,
            "a future field": 1,
            "seed": 5,
            "output_config": {"task_budget": {"tokens": 5}},
            "tools": [TOOL | {"input_examples": [{}]}],
        }
    )
    assert translation.warnings == [
        f"{name}: has no effect here"
        for name in (
            "a future field",
            "context_management",
            "seed",
            "output_config.task_budget",
            "tools.0.input_examples",
        )
    ]


def test_blocks_of_which_something_has_no_effect_are_told_of() -> None:
    source = {"type": "text", "data": "x"}
    document = {
        "type": "document", "source": source, "citations": {"enabled": True},
    }  # fmt: skip
    hidden = {"type": "redacted_thinking", "data": "x"}
    said = [
        {"role": "user", "content": [document]},
        {"role": "assistant", "content": [hidden]},
    ]
    warnings = translate_messages(HELLO | {"messages": said}).warnings
    assert warnings == [
        "messages.0.content.0.citations: has no effect here",
        "messages.1.content.0.data: has no effect here",
    ]
    assert translate_messages(HELLO).warnings == []


SERVER_TOOLS = [
    "web_search_20250305", "code_execution_20250825", "bash_20250124", "mcp_toolset",
    "text_editor_20250728", "computer_20250124", "memory_20250818",
]  # fmt: skip


@pytest.mark.parametrize("kind", SERVER_TOOLS)
def test_tools_of_anthropics_own_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(tools=[TOOL, {"type": kind, "name": "x"}])
    assert refused.value.param == "tools.1.type"
    assert refused.value.code == "unsupported_parameter"
    assert kind in refused.value.message


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"model": None}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"stream": "yes"}, "stream"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"system": 3}, "system"),
        ({"system": False}, "system"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stop_sequences": ["a", 1]}, "stop_sequences.1"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "adaptive", "display": "full"}}, "thinking.display"),
        ({"output_config": {"effort": "immense"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"thread": {"type": "create"}}, "thread"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(fields: Json, place: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**fields)
    assert refused.value.status == 400
    assert refused.value.param == place
    assert refused.value.message.startswith(f"{place}: ")
