"""The neuron's answers in Ollama's words, whole and streamed."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import MALFORMED, Json
from services.gateway.dialects.ollama.answer import OllamaTranslation
from services.gateway.dialects.ollama.dialect import Ollama
from services.gateway.dialects.ollama.request import translate_chat, translate_generate

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
TIMINGS = {"queue_s": 0.25, "prefill_s": 0.5, "decode_s": 1.5}
END = {
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 5,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 3,
    "eval_duration": 1_500_000_000,
}


def chatting(model: str = "m") -> OllamaTranslation:
    translation = translate_chat({"model": model, "messages": []})
    translation.started -= 3
    return translation


def generating(**fields: Any) -> OllamaTranslation:
    return translate_generate({"model": "m", "prompt": "hi", **fields})


def chunk(delta: Json, reason: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": reason} | more
    return {"object": "chat.completion.chunk", "choices": [choice]}


LAST = {"choices": [], "usage": USAGE, "timings": TIMINGS}


def lines(translation: OllamaTranslation, chunks: list[Json]) -> list[Json]:
    """All lines of a stream, without the moments that they tell."""
    writer = translation.writer()
    assert writer.comment("waiting") == b""
    sent = b"".join(map(writer.chunk, chunks)) + writer.end()
    assert sent.endswith(b"\n")
    told = [orjson.loads(line) for line in sent.splitlines()]
    for line in told:
        if "error" not in line:
            assert line.pop("created_at").endswith("Z")
    return told


def timeless(line: Json) -> Json:
    """Without what depends on the clock."""
    kept = {n: v for n, v in line.items() if n not in ("total_duration", "created_at")}
    kept.pop("load_duration", None)
    return kept


def whole(translation: OllamaTranslation, choice: Json, **more: Any) -> Json:
    answer = {"choices": [choice], "usage": USAGE, "timings": TIMINGS, **more}
    return translation.whole(answer)


def test_a_whole_answer_is_one_object() -> None:
    message = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    answer = whole(chatting(), {"message": message, "finish_reason": "stop"})
    assert timeless(answer) == {
        "model": "m",
        "message": {"role": "assistant", "content": "yes", "thinking": "hm"},
        **END,
    }
    # Three seconds, of which two are the prompt's and the answer's.
    assert 3.0e9 <= answer["total_duration"] < 3.9e9
    assert answer["load_duration"] == answer["total_duration"] - 2_000_000_000


def test_a_stream_is_an_object_a_part_and_one_at_the_end() -> None:
    parts = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}) | {"usage": {"prompt_tokens": 5}},
        chunk({"content": "ye"}),
        chunk({"content": "s"}),
        chunk({}, "length"),
        LAST,
    ]
    told = [timeless(line) for line in lines(chatting("m:latest"), parts)]
    start = {"model": "m:latest", "done": False}
    assert told == [
        {
            **start,
            "message": {"role": "assistant", "content": "", "thinking": "hm"},
        },
        {**start, "message": {"role": "assistant", "content": "ye"}},
        {**start, "message": {"role": "assistant", "content": "s"}},
        {
            "model": "m:latest",
            "message": {"role": "assistant", "content": ""},
            **END,
            "done_reason": "length",
        },
    ]


def test_a_generation_tells_a_response() -> None:
    answer = whole(
        generating(),
        {
            "message": {"content": "yes", "reasoning_content": "hm"},
            "finish_reason": "stop",
        },
    )
    assert (answer["response"], answer["thinking"]) == ("yes", "hm")
    streamed = lines(generating(), [chunk({"content": "yes"}), chunk({}, "stop"), LAST])
    assert [line["response"] for line in streamed] == ["yes", ""]
    raw = generating(raw=True)
    assert whole(raw, {"text": "yes", "finish_reason": "stop"})["response"] == "yes"
    texts = [
        {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
        for text, reason in [("y", None), ("es", None), ("", "stop")]
    ]
    assert [line["response"] for line in lines(raw, [*texts, LAST])] == ["y", "es", ""]


def test_log_probabilities_are_told_alike_of_chats_and_texts() -> None:
    content = [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -0.25, "bytes": [98]}],
        }
    ]
    part = chunk({"content": "a"}, logprobs={"content": content})
    told = lines(chatting(), [part, chunk({}, "stop"), LAST])
    assert told[0]["logprobs"] == content
    assert "logprobs" not in told[1]
    scores = {
        "tokens": ["a"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"a": -0.5, "b": -0.25}],
        "text_offset": [0],
    }
    choice = {"text": "a", "logprobs": scores, "finish_reason": "stop"}
    top = [{"token": "b", "logprob": -0.25}, {"token": "a", "logprob": -0.5}]
    assert whole(generating(raw=True), choice)["logprobs"] == [
        {"token": "a", "logprob": -0.5, "top_logprobs": top}
    ]


def call(index: int, arguments: str, name: str | None = None) -> Json:
    if name is None:
        return {"index": index, "function": {"arguments": arguments}}
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"c{index}", "type": "function", "function": function}


def test_a_call_is_told_once_it_is_complete() -> None:
    writer = chatting().writer()
    assert writer.chunk(chunk({"tool_calls": [call(0, "", "f")]})) == b""
    assert writer.chunk(chunk({"tool_calls": [call(0, '{"a":')]})) == b""
    first = orjson.loads(writer.chunk(chunk({"tool_calls": [call(0, "1}")]})))
    assert first["message"]["tool_calls"] == [
        {"id": "c0", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
    ]
    assert writer.chunk(chunk({"tool_calls": [call(1, "", "g")]})) == b""
    second = orjson.loads(writer.chunk(chunk({}, "tool_calls")))
    assert second["message"]["tool_calls"] == [
        {"id": "c1", "function": {"index": 1, "name": "g", "arguments": {}}}
    ]
    assert orjson.loads(writer.end())["done_reason"] == "stop"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_that_was_cut_off_is_text(streamed: bool) -> None:
    cut = call(0, '{"a": "x', "f")
    if streamed:
        told = lines(
            chatting(), [chunk({"tool_calls": [cut]}), chunk({}, "length"), LAST]
        )
    else:
        message = {"content": None, "tool_calls": [cut]}
        told = [whole(chatting(), {"message": message, "finish_reason": "length"})]
    assert told[0]["message"] == {
        "role": "assistant",
        "content": '{"name":"f","arguments":{"a": "x',
    }
    assert told[-1]["done_reason"] == "length"


def test_a_stream_without_its_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="why it ended"):
        lines(chatting(), [chunk({"content": "a"}), LAST])
    writer = chatting().writer()
    writer.chunk(chunk({"content": "a"}))
    error = ApiError(502, "a stopped in the middle of the answer", code="upstream_lost")
    assert writer.fail(error) == b'{"error":"a stopped in the middle of the answer"}\n'


@pytest.mark.parametrize(
    "choices", [None, [], [{}], [{"message": {}, "finish_reason": None}]]
)
def test_an_answer_that_is_none_is_not_worded(choices: Any) -> None:
    with pytest.raises(MALFORMED):
        chatting().whole({"choices": choices})


def test_what_is_not_known_is_not_told() -> None:
    answer = chatting().whole(
        {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
    )
    assert "eval_count" not in answer
    assert answer["load_duration"] == answer["total_duration"]


def test_an_error_is_its_message() -> None:
    error = ApiError(404, "model 'm' does not exist", code="model_not_found")
    assert Ollama().error(error, "id") == {"error": "model 'm' does not exist"}
    assert Ollama().status(error) == 404


@pytest.mark.parametrize(
    ("param", "chat", "generation"),
    [
        ("messages[1].content[2].image_url", "messages[1].images[2]", "images[2]"),
        ("messages[1].role", "messages[1].role", "prompt"),
        ("response_format.json_schema.schema.type", "format.type", "format.type"),
        ("stop[3]", "options.stop[3]", "options.stop[3]"),
        ("max_tokens", "options.num_predict", "options.num_predict"),
        ("tools[0].function", "tools[0].function", "tools[0].function"),
    ],
)
def test_a_refusal_names_places_in_the_clients_own_request(
    param: str, chat: str, generation: str
) -> None:
    error = ApiError(400, f"{param}: no", code="x", param=param)
    for translation, place in ((chatting(), chat), (generating(), generation)):
        refused = translation.refused(error)
        assert (refused.message, refused.param) == (f"{place}: no", place)
    elsewhere = ApiError(429, "param: no room", code="x")
    assert chatting().refused(elsewhere) is elsewhere
    long = ApiError(400, "your messages came to 9 tokens", code="x", param="messages")
    assert generating().refused(long).message == long.message


# However the neuron cuts its stream, a client puts together the same answer.

_said = st.fixed_dictionaries(
    {
        "reasoning_content": st.text(max_size=12),
        "content": st.text(max_size=12),
        "calls": st.lists(
            st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=3),
            max_size=3,
        ),
    }
)


def cut(data: st.DataObject, text: str) -> list[str]:
    """The text in pieces."""
    places = data.draw(st.sets(st.integers(0, len(text)), max_size=4))
    borders = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in pairwise(borders)]


def streamed(data: st.DataObject, said: Json) -> list[Json]:
    chunks = [chunk({"role": "assistant", "content": ""})]
    for name in ("reasoning_content", "content"):
        chunks += [chunk({name: piece}) for piece in cut(data, said[name])]
    told: list[Json] = []
    # Names may come before the arguments of other calls.
    names = [call(index, "", f"f{index}") for index, _ in enumerate(said["calls"])]
    names_first = data.draw(st.booleans())
    for index, arguments in enumerate(said["calls"]):
        pieces = cut(data, orjson.dumps(arguments).decode())
        told += [] if names_first else [names[index]]
        told += [call(index, piece) for piece in pieces]
    if names_first and names:
        chunks.append(chunk({"tool_calls": names}))
    chunks += [chunk({"tool_calls": [each]}) for each in told]
    return [*chunks, chunk({}, "tool_calls" if said["calls"] else "stop"), LAST]


def put_together(told: list[Json]) -> Json:
    messages = [line["message"] for line in told]
    return {
        "role": "assistant",
        "content": "".join(m["content"] for m in messages),
        "thinking": "".join(m.get("thinking", "") for m in messages),
        "tool_calls": [c for m in messages for c in m.get("tool_calls", [])],
    }


def as_the_neuron_has_it(message: Json) -> Json:
    """The way back, of all that both sides have."""
    calls = [
        {
            "id": each["id"],
            "type": "function",
            "function": {
                "name": each["function"]["name"],
                "arguments": orjson.dumps(each["function"]["arguments"]).decode(),
            },
        }
        for each in message.get("tool_calls", [])
    ]
    return {
        "content": message["content"] or None,
        "reasoning_content": message.get("thinking", ""),
        "tool_calls": calls,
    }


@given(_said, st.data())
def test_any_split_of_a_stream_says_what_the_whole_says(
    said: Json, data: st.DataObject
) -> None:
    told = lines(chatting(), streamed(data, said))
    assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    calls = [
        call(i, orjson.dumps(a).decode(), f"f{i}") for i, a in enumerate(said["calls"])
    ]
    for each in calls:
        del each["index"]
    message = {
        "content": said["content"] or None,
        "reasoning_content": said["reasoning_content"],
        "tool_calls": calls,
    }
    answer = whole(chatting(), {"message": message, "finish_reason": "stop"})
    assert as_the_neuron_has_it(answer["message"]) == message
    assert put_together(told) == {"thinking": "", "tool_calls": []} | answer["message"]
    assert timeless(told[-1]) == timeless(answer) | {
        "message": {"role": "assistant", "content": ""}
    }
