"""Streams: the events that clients expect, however the neuron's stream is cut."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import MALFORMED, Json
from services.gateway.dialects.responses.assembly import Assembly
from services.gateway.dialects.responses.request import translate
from services.gateway.dialects.responses.translation import ResponsesTranslation
from services.gateway.dialects.responses.writer import Writer
from services.gateway.wording import Translated
from tests.unit.services.dialects.responses.chunks import (
    ANSWERS,
    USED,
    Answer,
    Call,
    called,
    chunk,
    chunked,
    encoded,
    events_of,
    more,
    read_by_client,
)

LOST = ApiError(502, "atlas stopped", code="upstream_lost", type="server_error")
TOOLS = [
    {"type": "function", "name": "look", "parameters": {"type": "object"}},
    {"type": "custom", "name": "sql"},
    {
        "type": "namespace",
        "name": "crm",
        "description": "Customers.",
        "tools": [{"type": "function", "name": "find"}],
    },
]


def request(**more: Any) -> ResponsesTranslation:
    body = {"model": "m", "input": "Hi", "stream": True, "tools": TOOLS, **more}
    return translate(body)


def told(translation: ResponsesTranslation, chunks: list[Json]) -> list[Json]:
    writer = translation.writer()
    return events_of(b"".join(map(writer.chunk, chunks)) + writer.end())


def broken_off(chunks: list[Json]) -> list[Json]:
    """The events of a stream that lacks its end."""
    writer = request().writer()
    sent = b"".join(map(writer.chunk, chunks))
    with pytest.raises(ValueError, match="why it ended"):
        writer.end()
    return events_of(sent + writer.fail(LOST))


def timeless(value: Json) -> Json:
    """Without what the clock says."""
    response = value.get("response")
    if response is None:
        return value
    return value | {"response": response | {"completed_at": None}}


def output(response: Json) -> list[Json]:
    """The items, without their ids and those that depend on no more than the id."""
    return [{k: v for k, v in item.items() if k != "id"} for item in response["output"]]


@given(st.data(), ANSWERS, st.booleans(), st.booleans())
@settings(deadline=None)
def test_any_split_gives_the_same_events(
    data: st.DataObject, answer: Answer, summary: bool, sealed: bool
) -> None:
    reasoning = {"summary": "auto"} if summary else {}
    include = ["reasoning.encrypted_content"] if sealed else []
    translation = request(reasoning=reasoning, include=include)
    stream = encoded(data.draw(chunked(answer)))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=9))
    bounds = [0, *sorted(cuts), len(stream)]
    variants = []
    for pieces in ([stream], [stream[a:b] for a, b in itertools.pairwise(bounds)]):
        wording = Translated(Writer(Assembly(translation.shape)))
        sent = b"".join(map(wording.feed, pieces)) + wording.end()
        variants.append([timeless(event) for event in events_of(sent)])
    assert variants[0] == variants[1]


@given(st.data(), ANSWERS, st.booleans())
@settings(deadline=None)
def test_a_stream_ends_as_the_whole_answer_is(
    data: st.DataObject, answer: Answer, summary: bool
) -> None:
    reasoning = {"summary": "detailed"} if summary else None
    whole = request(reasoning=reasoning).whole(answer.whole)
    events = told(request(reasoning=reasoning), data.draw(chunked(answer)))
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert events[-1]["type"] == f"response.{whole['status']}"
    assert output(events[-1]["response"]) == output(whole)
    assert events[-1]["response"]["usage"] == whole["usage"] == USED
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert sorted(done, key=lambda i: i["id"][-2:]) == events[-1]["response"]["output"]


@given(st.data(), ANSWERS)
@settings(deadline=None)
def test_the_official_client_reads_it(data: st.DataObject, answer: Answer) -> None:
    events = told(request(), data.draw(chunked(answer)))
    response = read_by_client(events)
    assert response.status == ("incomplete" if answer.cut else "completed")
    assert response.output_text.strip() == (answer.message["content"] or "").strip()
    calls = [item for item in response.output if "call" in item.type]
    assert [call.call_id for call in calls] == [call.id for call in answer.calls]


@given(st.data(), ANSWERS)
@settings(deadline=None)
def test_deltas_make_up_what_is_done(data: st.DataObject, answer: Answer) -> None:
    events = told(request(), data.draw(chunked(answer)))
    texts: dict[tuple[str, str], str] = {}
    for event in events:
        kind, _, step = event["type"].removeprefix("response.").rpartition(".")
        key = (event.get("item_id", ""), kind)
        if step == "delta":
            assert event["delta"]
            texts[key] = texts.get(key, "") + event["delta"]
        elif step == "done" and kind.split("_")[-1] in ("text", "arguments", "input"):
            name = kind.split("_")[-1]
            assert event[name] == texts.get(key, "")


@given(st.data(), ANSWERS)
@settings(deadline=None)
def test_what_lacks_its_end_is_a_failure(data: st.DataObject, answer: Answer) -> None:
    chunks = data.draw(chunked(answer))[:-2]
    kept = chunks[: data.draw(st.integers(1, len(chunks)))]
    events = broken_off(kept)
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert not any(e["type"] == "response.completed" for e in events)
    read_by_client(events)


def test_the_whole_sequence() -> None:
    call = Call("call_1", "look", "{}")
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm"}),
        chunk({"content": "\n"}),
        chunk({"content": "Yes"}),
        called(0, call),
        more(0, "{}"),
        called(1, Call("call_2", "sql", "")),
        more(1, '{"input": "S'),
        chunk({}, finish_reason="tool_calls"),
    ]
    events = told(request(reasoning={"summary": "auto"}), chunks)
    assert [e["type"].removeprefix("response.") for e in events] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta",
        "output_item.added",
        "function_call_arguments.done", "output_item.done",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    text = next(e for e in events if e["type"] == "response.output_text.delta")
    assert text["delta"] == "\nYes"


def test_a_thought_without_a_summary_is_content() -> None:
    chunks = [chunk({"reasoning_content": "Hm"}), chunk({}, finish_reason="length")]
    events = told(request(), chunks)
    types = [e["type"].removeprefix("response.") for e in events]
    assert types[2:7] == [
        "output_item.added", "content_part.added", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done",
    ]  # fmt: skip
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    [item] = response["output"]
    assert item["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert (item["summary"], item["status"]) == ([], "incomplete")


def test_nothing_said_is_an_empty_message() -> None:
    events = told(request(), [chunk({}, finish_reason="stop")])
    [item] = events[-1]["response"]["output"]
    assert item["content"][0]["text"] == ""
    assert events[-1]["type"] == "response.completed"


@pytest.mark.parametrize("name", ["look", "sql"])
@pytest.mark.parametrize("arguments", ['{"input":"a"', '{"input":"a', ""])
@pytest.mark.parametrize("reason", ["length", "stop"])
def test_a_call_that_breaks_off_is_never_complete(
    name: str, arguments: str, reason: str
) -> None:
    begun = {"index": 0, "id": "c", "function": {"name": name, "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": arguments}}]
    events = told(
        request(),
        [
            chunk({"tool_calls": [begun]}),
            chunk({"tool_calls": pieces}),
            chunk({"content": "}"}, finish_reason=reason),
        ],
    )
    call, text = events[-1]["response"]["output"]
    whole = name == "sql" and arguments.endswith('"')
    assert call["status"] == ("completed" if whole else "incomplete")
    assert text["content"][0]["text"] == "}"
    assert (events[-1]["type"] == "response.incomplete") is (reason == "length")


def test_a_break_fails_what_has_begun() -> None:
    writer = request().writer()
    sent = writer.chunk(chunk({"content": "On"})) + writer.fail(LOST)
    last = events_of(sent)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["message"] == "atlas stopped"
    [item] = last["response"]["output"]
    assert item["status"] == "incomplete"
    assert item["content"][0]["text"] == "On"


def test_a_break_before_anything_is_an_error() -> None:
    [event] = events_of(request().writer().fail(LOST))
    assert event["type"] == "error"
    assert event["message"] == event["error"]["message"] == "atlas stopped"
    assert event["sequence_number"] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LOST, "server_error"),
        (ApiError(429, "full", code="rate_limit_exceeded"), "rate_limit_exceeded"),
        (ApiError(400, "long", "context_length_exceeded"), "context_length_exceeded"),
        (ApiError(400, "odd", code="invalid_request_body"), "invalid_prompt"),
    ],
)
def test_failures_have_codes_that_clients_know(error: ApiError, code: str) -> None:
    [event] = events_of(request().writer().fail(error))
    assert event["code"] == code


def test_comments_keep_the_client_waiting() -> None:
    assert request().writer().comment("loading 1/2") == b": loading 1/2\n\n"


def test_names_map_back() -> None:
    answer = Answer(
        calls=[Call("c1", "crm__find", "{}"), Call("c2", "sql", '{"input":"SELECT"}')]
    )
    find, sql = request().whole(answer.whole)["output"]
    assert (find["type"], find["name"], find["namespace"]) == (
        "function_call", "find", "crm",
    )  # fmt: skip
    assert (sql["type"], sql["name"], sql["input"]) == (
        "custom_tool_call", "sql", "SELECT",
    )  # fmt: skip


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{}]}])
def test_what_is_no_answer_is_refused(answer: Json) -> None:
    with pytest.raises(MALFORMED):
        request().whole(answer)
