"""Conversations in Anthropic's blocks and in the neuron's messages say the same."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.dialects.anthropic import translate_messages
from services.gateway.dialects.anthropic.thoughts import signature
from services.gateway.dialects.base import Json

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
IMAGE = {"type": "image", "source": PNG}
AS_URL = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="},
}


def chat(messages: list[Any], **fields: Any) -> Json:
    body = {"model": "m", "max_tokens": 9, "messages": messages, **fields}
    return translate_messages(body).body


def told(*messages: Json, **fields: Any) -> list[Json]:
    said: list[Json] = chat([*messages], **fields)["messages"]
    return said


def user(*content: Any) -> Json:
    return {"role": "user", "content": [*content]}


def assistant(*content: Any) -> Json:
    return {"role": "assistant", "content": [*content]}


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def refusal(*messages: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        chat([*messages], **fields)
    assert refused.value.status == 400
    return refused.value


# There and back again. `back` reads the neuron's form on its own terms.

names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner),
    max_leaves=6,
)
texts = st.builds(text, st.text(max_size=20))
media = st.sampled_from(["image/png", "image/jpeg"])
images = st.one_of(
    st.builds(
        lambda kind, data: {
            "type": "image",
            "source": {"type": "base64", "media_type": kind, "data": data},
        },
        media,
        st.from_regex(r"[A-Za-z0-9+/]{0,16}", fullmatch=True),
    ),
    st.just({"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}),
)
results = st.builds(
    lambda id_, inner, failed: {
        "type": "tool_result",
        "tool_use_id": id_,
        "content": inner,
        **({"is_error": True} if failed else {}),
    },
    names,
    st.text(max_size=20) | st.lists(texts | images, min_size=1, max_size=3),
    st.booleans(),
)
calls = st.builds(
    lambda id_, name, given: {
        "type": "tool_use",
        "id": id_,
        "name": name,
        "input": given,
    },
    names,
    names,
    st.dictionaries(names, json_values, max_size=3),
)
thoughts = st.text(min_size=1, max_size=20).map(
    lambda said: {
        "type": "thinking",
        "thinking": said,
        "signature": signature(said, carried=False),
    }
)
user_turns = st.builds(
    lambda content: {"role": "user", "content": content},
    st.text(max_size=20)
    | st.lists(texts | images, min_size=1, max_size=3)
    | st.lists(results, min_size=1, max_size=3),
)
assistant_turns = st.builds(
    lambda thought, said, called: assistant(*thought, *said, *called),
    st.lists(thoughts, max_size=1),
    st.lists(texts, min_size=1, max_size=2),
    st.lists(calls, max_size=2),
) | st.builds(lambda said: {"role": "assistant", "content": said}, st.text(max_size=20))
system_turns = st.builds(
    lambda said: {"role": "system", "content": said}, st.text(max_size=20)
)
conversations = st.lists(
    user_turns | assistant_turns | system_turns, max_size=5
).flatmap(lambda begun: user_turns.map(lambda last: [*begun, last]))


def block_of(part: Json) -> Json:
    if part["type"] == "text":
        return part
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, data = url.removeprefix("data:").split(";base64,")
    source = {"type": "base64", "media_type": kind, "data": data}
    return {"type": "image", "source": source}


def content_of(content: Any) -> Any:
    return content if isinstance(content, str) else [*map(block_of, content or ())]


def back(message: Json) -> Json:
    match message["role"]:
        case "tool":
            kept = {"is_error": True} if message.get("is_error") else {}
            result = {
                "type": "tool_result",
                "tool_use_id": message["tool_call_id"],
                "content": content_of(message["content"]),
            }
            return user(result | kept)
        case "assistant" if not isinstance(message["content"], str):
            thought = message.get("reasoning_content")
            signed = signature(thought or "", carried=False)
            return assistant(
                *([{"type": "thinking", "thinking": thought, "signature": signed}]
                  if thought else ()),
                *content_of(message["content"]),
                *({"type": "tool_use", "id": call["id"],
                   "name": call["function"]["name"],
                   "input": orjson.loads(call["function"]["arguments"])}
                  for call in message.get("tool_calls", ())),
            )  # fmt: skip
        case role:
            return {"role": role, "content": content_of(message["content"])}


def one_result_each(message: Json) -> list[Json]:
    """Results of one message are messages of their own in the neuron's form."""
    content = message["content"]
    if isinstance(content, list) and content[0]["type"] == "tool_result":
        return [user(result) for result in content]
    return [message]


@given(conversations)
@settings(deadline=None)
def test_a_conversation_comes_back_as_it_went(messages: list[Json]) -> None:
    expected = [each for message in messages for each in one_result_each(message)]
    assert [*map(back, told(*messages))] == expected


def test_the_system_prompt_comes_first_and_stays_in_its_blocks() -> None:
    hello = {"role": "user", "content": "hello"}
    cached = text("one", cache_control={"type": "ephemeral"})
    assert told(hello, system="be nice")[0] == {
        "role": "system",
        "content": "be nice",
    }
    assert told(hello, system=[cached, text("two")])[0]["content"] == [
        text("one"),
        text("two"),
    ]
    assert told(hello, system=[]) == told(hello, system="") == told(hello)


def test_system_messages_in_the_middle_stay_there() -> None:
    middle = {"role": "system", "content": "from now on in French"}
    until = middle | {"clear_at": "next_user_message"}
    hello = {"role": "user", "content": "hello"}
    assert told(hello, middle, hello) == [hello, middle, hello]
    assert told(hello, until) == [hello, middle]
    assert told(hello, until, {"role": "assistant", "content": "a"}, hello) == [
        hello,
        {"role": "assistant", "content": "a"},
        hello,
    ]


def test_results_of_tools_stand_where_they_stood() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "12:30"}
    said = told(user(text("before"), result, text("after"), IMAGE))
    assert [message["role"] for message in said] == ["user", "tool", "user"]
    assert said[0]["content"] == [text("before")]
    assert said[1] == {"role": "tool", "tool_call_id": "t", "content": "12:30"}
    assert said[2]["content"] == [text("after"), AS_URL]


def test_a_result_has_blocks_of_its_own_and_may_be_an_error() -> None:
    nested = [text("see"), IMAGE]
    result = {"type": "tool_result", "tool_use_id": "t", "content": nested}
    [said] = told(user(result | {"is_error": True, "cache_control": {}}))
    assert said["content"] == [text("see"), AS_URL]
    assert said["is_error"] is True
    [empty] = told(user({"type": "tool_result", "tool_use_id": "t"}))
    assert empty == {"role": "tool", "tool_call_id": "t", "content": ""}


def test_documents_and_search_results_are_text() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "the text"}
    document = {"type": "document", "source": plain, "title": "T", "context": "C"}
    assert told(user(document))[0]["content"] == [*map(text, ("T", "C", "the text"))]
    for inner, expected in (
        ("b", [text("b")]),
        ([text("b"), IMAGE], [text("b"), AS_URL]),
    ):
        source = {"type": "content", "content": inner}
        document = {"type": "document", "source": source}
        assert told(user(document))[0]["content"] == expected
    found = {
        "type": "search_result", "title": "T", "source": "S", "content": [text("x")],
    }  # fmt: skip
    assert told(user(found))[0]["content"] == [*map(text, "TSx")]


def test_thoughts_come_back_and_redacted_ones_do_not() -> None:
    kept = {"type": "thinking", "thinking": "hm", "signature": "somebody else's"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    last = {"role": "user", "content": "go on"}
    [turn, _] = told(assistant(kept, hidden, text("a")), last)
    assert turn["reasoning_content"] == "hm"
    assert turn["content"] == [text("a")]
    [turn, _] = told(assistant(hidden, text("a")), last)
    assert "reasoning_content" not in turn


@given(st.text(max_size=50))
def test_a_hidden_thought_comes_back_from_its_signature(thought: str) -> None:
    block = {
        "type": "thinking",
        "thinking": "",
        "signature": signature(thought, carried=True),
    }
    [turn, _] = told(assistant(block, text("a")), {"role": "user", "content": "b"})
    assert turn.get("reasoning_content", "") == thought


def test_a_turn_of_calls_alone_has_no_content() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1.5, "ü"]}}
    [turn, _] = told(assistant(call), user({"type": "tool_result", "tool_use_id": "t"}))
    assert turn["content"] is None
    [made] = turn["tool_calls"]
    assert orjson.loads(made["function"]["arguments"]) == {"a": [1.5, "ü"]}


def test_the_answer_goes_on_with_the_assistants_last_words() -> None:
    hello = {"role": "user", "content": "hello"}
    begun = {"role": "assistant", "content": "The answer is ("}
    assert chat([hello, begun])["continue_final_message"] is True
    assert "continue_final_message" not in chat([hello, begun, hello])


CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
DEEP: Json = orjson.loads('{"a":' * 300 + "1" + "}" * 300)
DAMAGED = {
    "type": "thinking",
    "thinking": "",
    "signature": signature("x", carried=True) + "…",
}


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([], "messages"),
        (["x"], "messages.0"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": 3}], "messages.0.content"),
        ([user("x")], "messages.0.content.0"),
        ([user({})], "messages.0.content.0.type"),
        ([user({"type": "hologram"})], "messages.0.content.0.type"),
        ([user(text("a"), {"type": "text"})], "messages.0.content.1.text"),
        ([user(CALL)], "messages.0.content.0.type"),
        ([user({"type": "image"})], "messages.0.content.0.source"),
        (
            [user({"type": "image", "source": {"type": "file", "file_id": "f"}})],
            "messages.0.content.0.source.type",
        ),
        (
            [user({"type": "document", "source": PNG | {"media_type": "a/pdf"}})],
            "messages.0.content.0.source.type",
        ),
        (
            [user({"type": "tool_result", "tool_use_id": "t", "content": [{}]})],
            "messages.0.content.0.content.0.type",
        ),
        ([user({"type": "tool_result"})], "messages.0.content.0.tool_use_id"),
        ([assistant(IMAGE)], "messages.0.content.0.type"),
        ([assistant({"type": "server_tool_use"})], "messages.0.content.0.type"),
        ([assistant(DAMAGED)], "messages.0.content.0.signature"),
        ([assistant(CALL | {"input": "{}"})], "messages.0.content.0.input"),
        ([assistant(CALL | {"input": DEEP})], "messages.0.content.0.input"),
        ([user(text("a")), assistant(CALL)], "messages.1.content"),
        ([{"role": "system", "content": [IMAGE]}], "messages.0.content.0.type"),
    ],
)
def test_what_is_wrong_with_a_conversation_is_named(
    messages: list[Any], place: str
) -> None:
    error = refusal(*messages)
    assert error.param == place
    assert error.message.startswith(f"{place}: ")
