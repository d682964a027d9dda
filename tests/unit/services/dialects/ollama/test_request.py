"""Requests of Ollama's clients become the neuron's, and nothing of them is lost."""

import base64
import io
from typing import Any

import pytest
from hypothesis import given, strategies as st
from PIL import Image

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json
from services.gateway.dialects.ollama.request import translate_chat, translate_generate

HI = [{"role": "user", "content": "hi"}]


def picture(kind: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def chat(**fields: Any) -> Json:
    """The neuron's request, without what every one has."""
    body = translate_chat({"model": "m", "messages": HI, **fields}).body
    return {name: body[name] for name in body if name not in _ALWAYS}


_ALWAYS = ("model", "messages", "stream", "stream_options")


def test_a_chat_streams_unless_told_otherwise() -> None:
    translation = translate_chat({"model": "m", "messages": HI})
    assert translation.path == "/v1/chat/completions"
    assert translation.stream
    assert translation.body == {
        "model": "m",
        "messages": HI,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    assert translation.warnings == []
    whole = translate_chat({"model": "m", "messages": HI, "stream": False})
    assert whole.body == {"model": "m", "messages": HI}
    assert not whole.stream


def test_options_are_sampling_parameters() -> None:
    assert chat(
        options={
            "num_predict": 7,
            "temperature": 0.5,
            "top_k": 40.0,
            "top_p": 0.9,
            "min_p": 0.05,
            "seed": 3,
            "stop": ["\n", "END"],
            "repeat_penalty": 1.1,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
        }
    ) == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.05,
        "seed": 3,
        "stop": ["\n", "END"],
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"num_predict": -1, "seed": -1},
        {"num_predict": -2, "stop": []},
        {"num_predict": 0, "temperature": None},
        {"mirostat": 0, "tfs_z": 1.0, "typical_p": 1, "repeat_last_n": -1},
    ],
)
def test_options_that_ask_for_nothing_add_nothing(options: Json) -> None:
    translation = translate_chat({"model": "m", "messages": HI, "options": options})
    assert translation.body.keys() <= set(_ALWAYS)
    assert translation.warnings == []


def test_what_has_no_effect_is_told() -> None:
    translation = translate_chat(
        {
            "model": "m",
            "messages": HI,
            "options": {"num_ctx": 8192, "repeat_last_n": 64, "num_gpu": 1, "x": 1},
            "truncate": True,
            "shift": False,
            "novel": 1,
        }
    )
    assert translation.warnings == [
        "novel: has no effect here",
        "truncate: a prompt that is too long is refused, not cut",
        "options.num_ctx: the context is as long as the model was loaded with",
        "options.repeat_last_n: repetition is looked for in the whole context",
        "options.num_gpu: has no effect here",
        "options.x: has no effect here",
    ]
    assert translation.body.keys() == set(_ALWAYS)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 1}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "a", "thinking": 1}]}, "messages[0].thinking"),
        ({"messages": [{"role": "a", "images": [1]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "a", "images": ["a:b"]}]}, "messages[0].images[0]"),
        ({"messages": [{"role": "a", "images": ["AAAA"]}]}, "messages[0].images[0]"),
        (
            {"messages": [{"role": "a", "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        (
            {
                "messages": [
                    {
                        "role": "a",
                        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"options": []}, "options"),
        ({"options": {"temperature": 2.1}}, "options.temperature"),
        ({"options": {"temperature": True}}, "options.temperature"),
        ({"options": {"top_p": 0}}, "options.top_p"),
        ({"options": {"min_p": -0.1}}, "options.min_p"),
        ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"seed": 1e300}}, "options.seed"),
        ({"options": {"seed": "1"}}, "options.seed"),
        ({"options": {"stop": [""]}}, "options.stop[0]"),
        ({"options": {"stop": 1}}, "options.stop"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"typical_p": 0.7}}, "options.typical_p"),
        ({"format": "yaml"}, "format"),
        ({"think": "hard"}, "think"),
        ({"think": 1}, "think"),
        ({"tools": {}}, "tools"),
        ({"logprobs": 1}, "logprobs"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"truncate": 1}, "truncate"),
    ],
)
def test_what_is_wrong_is_named_as_the_client_wrote_it(
    fields: Json, param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        translate_chat({"model": "m", "messages": HI, **fields})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(f"{param}: ")


def test_format_is_json_or_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert chat(format="") == chat(format=None) == {}
    assert chat(format="json") == {"response_format": {"type": "json_object"}}
    assert chat(format=schema) == {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "format", "schema": schema},
        }
    }


def test_think_is_a_switch_or_an_effort() -> None:
    assert chat(think=True) == {"enable_thinking": True}
    assert chat(think=False) == {"enable_thinking": False}
    for effort in ("low", "medium", "high", "max"):
        wanted = {"enable_thinking": True, "reasoning_effort": effort}
        assert chat(think=effort) == wanted


def test_tools_and_scores_pass_as_they_are() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    untyped = {"function": {"name": "g"}}
    assert chat(tools=[tool, untyped], tool_choice="required") == {
        "tools": [tool, {"type": "function", **untyped}],
        "tool_choice": "required",
    }
    assert chat(tools=[]) == {}
    scored = {"logprobs": True, "top_logprobs": 2}
    assert chat(**scored) == scored


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_images_come_first_with_the_type_of_their_bytes(kind: str) -> None:
    data = picture(kind)
    message = {"role": "user", "content": "What is it?", "images": [data]}
    body = translate_chat({"model": "m", "messages": [message]}).body
    image = {"url": f"data:image/{kind};base64,{data}"}
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": image},
                {"type": "text", "text": "What is it?"},
            ],
        }
    ]
    alone = translate_generate({"model": "m", "images": [data]}).body
    (message,) = alone["messages"]
    assert message["content"] == [{"type": "image_url", "image_url": image}]


# A conversation, there and back.

_texts = st.text(max_size=8)
_arguments = st.dictionaries(
    _texts, st.none() | st.booleans() | st.integers(-9, 9) | _texts, max_size=3
)
_calls = st.lists(
    st.fixed_dictionaries(
        {
            "function": st.fixed_dictionaries(
                {"name": st.text("abc", min_size=1), "arguments": _arguments}
            )
        },
        optional={"id": st.text("abc", min_size=1)},
    ),
    min_size=1,
    max_size=2,
)
_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={
            "content": _texts,
            "thinking": _texts,
            "images": st.lists(st.just(picture("png")), min_size=1, max_size=2),
            "tool_calls": _calls,
            "tool_name": _texts,
            "tool_call_id": _texts,
            "of_a_template": _texts,
        },
    ),
    min_size=1,
    max_size=4,
)


def as_ollama_has_it(message: Json) -> Json:
    """The way back."""
    names = {"reasoning_content": "thinking", "name": "tool_name"}
    back = {names.get(name, name): value for name, value in message.items()}
    if isinstance(parts := back.pop("content"), list):
        urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        back["images"] = [url.partition(",")[2] for url in urls]
        back["content"] = "".join(p["text"] for p in parts if p["type"] == "text")
    elif parts is not None:
        back["content"] = parts
    for call in back.get("tool_calls", ()):
        assert call.pop("type") == "function"
    return back


@given(_messages)
def test_there_and_back_keeps_every_field_of_a_message(messages: list[Json]) -> None:
    body = translate_chat({"model": "m", "messages": messages}).body
    back = [as_ollama_has_it(message) for message in body["messages"]]
    for there, again in zip(messages, back, strict=True):
        if "images" in there:
            there = {"content": "", **there}
        assert again == there


# /api/generate.


def test_a_prompt_is_a_chat_of_one_message() -> None:
    translation = translate_generate(
        {"model": "m", "prompt": "hi", "system": "be brief", "think": False}
    )
    assert translation.path == "/v1/chat/completions"
    assert translation.body["messages"] == [
        {"role": "system", "content": "be brief"},
        *HI,
    ]
    assert translation.body["enable_thinking"] is False
    plain = translate_generate({"model": "m", "prompt": "hi", "system": ""})
    assert plain.body["messages"] == HI


def test_a_raw_prompt_is_taken_as_it_is() -> None:
    translation = translate_generate(
        {
            "model": "m",
            "prompt": "Once",
            "raw": True,
            "stream": False,
            "think": False,
            "logprobs": True,
            "options": {"num_predict": 2},
        }
    )
    assert translation.path == "/v1/completions"
    assert translation.body == {
        "model": "m",
        "prompt": "Once",
        "max_tokens": 2,
        "logprobs": 0,
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "}"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"width": 512}, "width"),
        ({"raw": True, "system": "x"}, "system"),
        ({"raw": True, "images": [picture("png")]}, "images"),
        ({"raw": True, "think": True}, "think"),
        ({"raw": True, "top_logprobs": 1}, "top_logprobs"),
        ({"raw": 1}, "raw"),
        ({"prompt": ["hi"]}, "prompt"),
    ],
)
def test_what_a_generation_cannot_have_is_refused_by_name(
    fields: Json, param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        translate_generate({"model": "m", "prompt": "hi", **fields})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(f"{param}: ")


def test_what_is_empty_is_not_asked_for() -> None:
    empty = {"suffix": "", "template": "", "context": [], "width": 0, "images": []}
    translation = translate_generate({"model": "m", "prompt": "hi", **empty})
    assert translation.body["messages"] == HI
    assert translation.warnings == []
