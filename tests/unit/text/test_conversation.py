"""Conversations, put differently."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from neuron.text import conversation
from neuron.text.conversation import ConversationError, Message

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
parts = st.fixed_dictionaries(
    {"type": st.just("text"), "text": st.text(max_size=5)},
    optional={"cache_control": json_values},
)
calls = st.fixed_dictionaries(
    {
        "id": st.text(max_size=12),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.text(max_size=5)},
            optional={"arguments": objects | objects.map(json.dumps) | st.text()},
        ),
    }
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
        optional={
            "content": st.text(max_size=5) | st.lists(parts, max_size=3),
            "tool_calls": st.lists(calls, max_size=2),
            "tool_call_id": st.text(max_size=12),
            "name": st.text(max_size=5),
            "reasoning": st.text(max_size=5),
            "extra": json_values.filter(lambda value: value is not None),
        },
    ),
    min_size=1,
    max_size=4,
)

FORMS: list[Callable[[list[Message]], list[Message]]] = [
    conversation.without_nulls,
    conversation.with_reasoning_names,
    conversation.developer_as_system,
    conversation.with_arguments,
    lambda given_: conversation.with_arguments(given_, as_text=True),
    lambda given_: conversation.with_content(given_, lambda _: "text"),
    lambda given_: conversation.with_content(given_, lambda _: "part"),
    lambda given_: conversation.with_content(given_, lambda _: "parts"),
    lambda given_: conversation.with_content(given_, lambda _: "either"),
    lambda given_: conversation.with_call_content(given_, "null"),
    conversation.with_short_ids,
]


@given(messages=messages, form=st.sampled_from(FORMS))
def test_every_field_is_kept_and_the_original_as_well(
    messages: list[Message], form: Callable[[list[Message]], list[Message]]
) -> None:
    conversation.check_parts(messages)
    before = copy.deepcopy(messages)
    formed = form(messages)
    assert messages == before
    assert len(formed) == len(messages)
    for old, new in zip(messages, formed, strict=True):
        assert old.keys() <= new.keys()
        for name in ("name", "extra", "reasoning"):
            assert old.get(name) == new.get(name)
        assert "\n".join(conversation.texts(old)) == "\n".join(conversation.texts(new))
        olds, news = old.get("tool_calls", []), new.get("tool_calls", [])
        assert [call["function"]["name"] for call in olds] == [
            call["function"]["name"] for call in news
        ]


@given(arguments=objects)
def test_arguments_are_the_same_as_object_and_as_text(
    arguments: dict[str, Any],
) -> None:
    function = {"name": "get", "arguments": arguments}
    called = [{"role": "assistant", "tool_calls": [{"function": function}]}]
    as_text = conversation.with_arguments(called, as_text=True)
    assert isinstance(as_text[0]["tool_calls"][0]["function"]["arguments"], str)
    assert conversation.with_arguments(as_text) == called
    assert conversation.unparsed_arguments(called) == []
    assert conversation.unparsed_arguments(as_text) == [
        "messages[0].tool_calls[0].function.arguments"
    ]


@pytest.mark.parametrize("arguments", ["{", "[1]", "1", '"x"', "[" * 100_000])
def test_arguments_that_are_no_object_stay(arguments: str) -> None:
    called = [{"tool_calls": [{"function": {"arguments": arguments}}]}]
    assert conversation.with_arguments(called) == called


@pytest.mark.parametrize("calls", [None, 1, "x", [1], [{}], [{"function": 1}]])
def test_calls_of_no_known_form_are_the_templates_matter(calls: object) -> None:
    called = [{"role": "assistant", "tool_calls": calls}]
    assert conversation.with_arguments(called) == called
    assert conversation.with_short_ids(called) == called
    assert conversation.unparsed_arguments(called) == []


@given(messages=messages)
def test_one_system_message_has_the_text_of_all(messages: list[Message]) -> None:
    merged = conversation.with_one_system(messages)
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    assert merged[bool(system) :] == others
    assert conversation.late_system(merged) == []
    for message in system:
        assert message.keys() <= merged[0].keys()
        for text in conversation.texts(message):
            assert text in merged[0]["content"]


@given(call_id=st.text())
def test_short_ids_are_nine_letters_and_digits(call_id: str) -> None:
    answered: list[Message] = [{"role": "tool", "tool_call_id": call_id}]
    once = conversation.with_short_ids(answered)
    assert len(once[0]["tool_call_id"]) == 9
    assert once[0]["tool_call_id"].isalnum()
    assert conversation.with_short_ids(once) == once


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        (1, "messages[0].content", "must be a string, a list of parts, or null"),
        (["x"], "messages[0].content[0]", "must be an object with a type"),
        ([{"text": "x"}], "messages[0].content[0]", "must be an object with a type"),
        ([{"type": "text"}], "messages[0].content[0].text", "must be a string"),
        ([{"type": "input_audio"}], "messages[0].content[0]", "input_audio is not"),
    ],
)
def test_content_of_another_kind_is_refused_by_its_place(
    content: object, place: str, reason: str
) -> None:
    with pytest.raises(ConversationError, match=reason) as raised:
        conversation.check_parts([{"role": "user", "content": content}])
    assert raised.value.param == place
    assert str(raised.value).startswith(place)
