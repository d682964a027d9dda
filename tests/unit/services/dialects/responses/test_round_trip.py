"""There and back: what both sides have is the same afterwards."""

from typing import Any

import orjson
from hypothesis import given, settings, strategies as st

from services.gateway.dialects.base import Json
from services.gateway.dialects.responses.request import translate
from services.gateway.dialects.responses.tool_names import flat
from tests.unit.services.dialects.responses.chunks import ANSWERS, Answer
from tests.unit.services.dialects.responses.test_streams import TOOLS, request

TEXT = st.text(min_size=1, max_size=9)
HOW = st.sampled_from(["content", "summary", "sealed"])


def messages(items: list[Json], **more: Any) -> list[Json]:
    body = {"model": "m", "input": items, "tools": TOOLS, **more}
    found: list[Json] = translate(body).body["messages"]
    return found


def canonical(message: Json) -> Json:
    """Arguments by their value; what says nothing is left out."""
    calls = [
        call
        | {
            "function": call["function"]
            | {"arguments": orjson.loads(call["function"]["arguments"])}
        }
        for call in message.get("tool_calls", ())
    ]
    kept = {k: v for k, v in message.items() if k != "tool_calls" and v is not None}
    return kept | ({"tool_calls": calls} if calls else {})


def sound(answer: Answer) -> bool:
    """Its custom tool is called as custom tools are."""
    return all(
        call.name != "sql" or orjson.loads(call.arguments).keys() == {"input"}
        for call in answer.calls
    )


@given(ANSWERS.filter(sound), HOW)
@settings(deadline=None)
def test_an_answer_that_is_sent_back_is_what_the_model_said(
    answer: Answer, how: str
) -> None:
    translation = request(
        reasoning={"summary": "auto"} if how == "summary" else None,
        include=["reasoning.encrypted_content"] if how == "sealed" else None,
    )
    items = translation.whole(answer.whole)["output"]
    if how == "sealed":
        for item in items:
            if item["type"] == "reasoning":
                del item["content"]
    asked = {"role": "user", "content": "Hi"}
    _, *back = messages([asked, *items])
    [said] = back or [{"role": "assistant", "content": None}]
    expected = answer.message
    if not expected["content"] and not said.get("content"):
        expected = expected | {"content": None}
        said = said | {"content": None}
    assert canonical(said) == canonical(expected)


PARTS = st.lists(
    st.one_of(
        st.builds(lambda t: {"type": "text", "text": t}, TEXT),
        st.builds(
            lambda d: {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64,AA", "detail": d},
            },
            st.sampled_from(["low", "high", "auto"]),
        ),
    ),
    min_size=2,
    max_size=3,
)
CONTENT = st.one_of(TEXT, PARTS)
MESSAGES = st.lists(
    st.one_of(
        st.builds(
            lambda role, content: {"role": role, "content": content},
            st.sampled_from(["user", "system", "developer"]),
            CONTENT,
        ),
        st.builds(
            lambda id_, content: {
                "role": "tool",
                "tool_call_id": id_,
                "content": content,
            },
            TEXT,
            CONTENT,
        ),
    ),
    min_size=1,
    max_size=5,
)
SETTINGS = st.fixed_dictionaries(
    {"model": TEXT},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0.1, 1),
        "parallel_tool_calls": st.booleans(),
        "max_completion_tokens": st.integers(1, 99),
        "reasoning_effort": st.sampled_from(["none", "low", "max"]),
        "user": TEXT,
        "safety_identifier": TEXT,
        "prompt_cache_key": TEXT,
        "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "response_format": st.builds(
            lambda name: {
                "type": "json_schema",
                "json_schema": {"name": name, "schema": {"type": "object"}},
            },
            TEXT,
        ),
    },
)


def _part(part: Json) -> Json:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    image = part["image_url"]
    return {
        "type": "input_image",
        "image_url": image["url"],
        "detail": image["detail"],
    }


def _item(message: Json) -> Json:
    content = message["content"]
    told = content if isinstance(content, str) else [_part(part) for part in content]
    if message["role"] == "tool":
        return {
            "type": "function_call_output",
            "call_id": message["tool_call_id"],
            "output": told,
        }
    return {"role": message["role"], "content": told}


def as_response_request(chat: Json) -> Json:
    """A chat request in the words of the Responses API."""
    body = {k: v for k, v in chat.items() if k != "messages"}
    body["input"] = [_item(message) for message in chat["messages"]]
    if limit := body.pop("max_completion_tokens", None):
        body["max_output_tokens"] = limit
    if effort := body.pop("reasoning_effort", None):
        body["reasoning"] = {"effort": effort}
    if format_ := body.pop("response_format", None):
        body["text"] = {"format": {"type": "json_schema", **format_["json_schema"]}}
    body["tools"] = [{"type": "function", **t["function"]} for t in chat["tools"]]
    return body


def function(name: str, told: str, strict: bool) -> Json:
    described = {"name": name, "description": told, "strict": strict}
    parameters: Json = {"parameters": {"type": "object"}}
    return {"type": "function", "function": described | parameters}


FUNCTIONS = st.lists(
    st.builds(
        function,
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        TEXT,
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda t: t["function"]["name"],
)


@given(SETTINGS, MESSAGES, FUNCTIONS)
@settings(deadline=None)
def test_a_chat_request_survives(
    fields: Json, messages: list[Json], tools: list[Json]
) -> None:
    chat = {**fields, "messages": messages, "tools": tools}
    assert translate(as_response_request(chat)).body == chat


@given(st.text(max_size=150), st.text(min_size=1, max_size=90))
def test_flat_names_are_what_a_neuron_takes(namespace: str, name: str) -> None:
    found = flat(namespace, name)
    assert 1 <= len(found) <= 128
    assert all(c.isascii() and (c.isalnum() or c in "_-") for c in found)
    assert found == flat(namespace, name)
