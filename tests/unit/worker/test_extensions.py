"""What vLLM's requests can ask for beyond OpenAI's."""

import asyncio
from typing import Any

import pytest

from neuron.engines.base import GenerationRequest
from tests.unit.worker.conftest import Start

CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Hi"}],
}
TEXT: dict[str, Any] = {"model": "scripted", "prompt": "Once"}


async def test_token_ids_of_prompt_and_answer(start: Start) -> None:
    async with start("upon a time") as worker:
        prompt = worker.tokenizer.encode("Once", add_bos=True)
        answer = worker.tokenizer.encode("upon a time", add_bos=False)
        _, text = await worker.complete(return_token_ids=True, n=2)
        _, chat = await worker.chat(return_token_ids=True)
    for choice in text["choices"]:
        assert choice["prompt_token_ids"] == prompt
        assert choice["token_ids"] == [*answer, 2]
    assert chat["choices"][0]["token_ids"] == [*answer, 2]
    assert len(chat["prompt_token_ids"]) == chat["usage"]["prompt_tokens"]


async def test_token_ids_of_a_stream(start: Start) -> None:
    asked = {"return_token_ids": True, "stop": " time"}
    async with start("upon a time") as worker:
        answer = worker.tokenizer.encode("upon a time", add_bos=False)
        _, whole = await worker.chat(**asked)
        *chat, _ = await worker.stream("/v1/chat/completions", CHAT | asked)
        *text, _ = await worker.stream("/v1/completions", TEXT | asked)
        prompt = worker.tokenizer.encode("Once", add_bos=True)
    ids = [t for c in chat for t in c["choices"][0].get("token_ids", ())]
    assert ids == whole["choices"][0]["token_ids"] == answer
    assert chat[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert not any("prompt_token_ids" in chunk for chunk in chat[1:])
    choices = [chunk["choices"][0] for chunk in text]
    assert choices[0]["prompt_token_ids"] == prompt
    assert not any("prompt_token_ids" in choice for choice in choices[1:])
    assert [t for choice in choices for t in choice.get("token_ids", ())] == answer


async def test_nobody_gets_token_ids_unasked(start: Start) -> None:
    async with start("upon") as worker:
        _, chat = await worker.chat()
        _, text = await worker.complete()
    assert "prompt_token_ids" not in chat
    assert "token_ids" not in chat["choices"][0]
    assert not {"token_ids", "prompt_token_ids"} & text["choices"][0].keys()


async def test_prompt_logprobs(start: Start) -> None:
    async with start("x") as worker:
        _, text = await worker.complete(prompt="Once upon", prompt_logprobs=1, n=2)
        _, chat = await worker.chat(prompt_logprobs=0, n=2)
        once, upon = worker.tokenizer.encode("Once upon", add_bos=False)
        scored = [r.prompt_logprobs for r in worker.engine.seen]
    for choice in text["choices"]:
        assert choice["prompt_logprobs"] == [
            None,
            {str(once): {"logprob": -0.25, "rank": 1, "decoded_token": " Once"}},
            {str(upon): {"logprob": -0.25, "rank": 1, "decoded_token": " upon"}},
        ]
        assert choice["text"] == " x"
        assert choice["logprobs"] is None
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert scored == [1, 1, 0, None]


async def test_prompt_logprobs_alone(start: Start) -> None:
    async with start("x") as worker:
        status, answer = await worker.complete(prompt_logprobs=0, max_tokens=0)
    assert (status, answer["choices"][0]["text"]) == (200, "")
    assert len(answer["choices"][0]["prompt_logprobs"]) == 2


async def test_prompt_logprobs_and_those_of_an_echo_keep_their_own_number(
    start: Start,
) -> None:
    async with start("x") as worker:
        _, answer = await worker.complete(prompt_logprobs=1, logprobs=0, echo=True)
    (choice,) = answer["choices"]
    # The token's own is always there.
    assert choice["logprobs"]["top_logprobs"] == [None, {" Once": -0.25}, {" x": -0.5}]
    assert [r.prompt_logprobs for r in worker.engine.seen] == [1]


async def test_tokens_can_be_named_by_their_ids(start: Start) -> None:
    asked = {"return_tokens_as_token_ids": True}
    async with start("upon") as worker:
        (upon,) = worker.tokenizer.encode("upon", add_bos=False)
        _, text = await worker.complete(logprobs=1, **asked)
        _, chat = await worker.chat(logprobs=True, top_logprobs=1, **asked)
    name = f"token_id:{upon}"
    assert text["choices"][0]["logprobs"]["tokens"] == [name]
    assert text["choices"][0]["logprobs"]["top_logprobs"] == [{name: -0.5}]
    (scored,) = chat["choices"][0]["logprobs"]["content"]
    assert scored["token"] == scored["top_logprobs"][0]["token"] == name
    assert bytes(scored["bytes"]) == b" upon"
    assert text["choices"][0]["text"] == " upon"


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 2}, "a time"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, "Once"),
        ({"truncate_prompt_tokens": 9}, "Once upon a time"),
        ({"truncate_prompt_tokens": -1}, "Once upon a time"),
    ],
)
async def test_a_prompt_is_cut_where_asked(
    start: Start, fields: dict[str, Any], kept: str
) -> None:
    prompt = "Once upon a time"
    async with start("x") as worker:
        _, answer = await worker.complete(prompt=prompt, echo=True, **fields)
    assert answer["choices"][0]["text"] == f"{kept} x"
    (request,) = worker.engine.seen
    assert answer["usage"]["prompt_tokens"] == len(request.prompt_ids)


@pytest.mark.parametrize(("most", "room"), [({}, 1), ({"max_tokens": 100}, 100)])
async def test_a_prompt_is_cut_to_leave_room(
    start: Start, most: dict[str, int], room: int
) -> None:
    async with start("x") as worker:
        asked = {"truncate_prompt_tokens": -1, **most}
        status, _ = await worker.complete(prompt=[*range(3, 303)], **asked)
        chatted, _ = await worker.chat(
            messages=[{"role": "user", "content": "dog " * 300}], **asked
        )
    assert (status, chatted) == (200, 200)
    text, chat = worker.engine.seen
    assert text.prompt_ids == tuple(range(303 - (256 - room), 303))
    assert len(chat.prompt_ids) == 256 - room
    assert chat.max_new_tokens == room


async def test_who_begins_the_prompt(start: Start) -> None:
    async with start("x") as worker:
        for wanted in (None, True, False):
            await worker.complete(add_special_tokens=wanted)
            await worker.chat(add_special_tokens=wanted)
        begun = [request.prompt_ids[0] == 1 for request in worker.engine.seen]
    assert begun == [True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("asked", "finish", "stop"),
    [
        ({"stop": [" six", " four"]}, "stop", " four"),
        ({"stop_token_ids": [2180]}, "stop", 2180),
        ({"stop_token_ids": [9, 2]}, "stop", None),
        ({"stop_token_ids": [2], "ignore_eos": True}, "stop", 2),
        ({"stop_token_ids": [9], "stop": " six"}, "stop", None),
        ({"max_tokens": 3, "stop": " five"}, "length", None),
    ],
)
async def test_what_stopped_it_is_told(
    start: Start, asked: dict[str, Any], finish: str, stop: str | int | None
) -> None:
    """As vLLM has it: an end of the model's own, even one asked for, is none."""

    def script(request: GenerationRequest) -> list[int]:
        # "one two three four five", and the end.
        return [639, 886, 1694, 2180, 3221, 2][: request.max_new_tokens]

    async with start(script) as worker:
        _, chat = await worker.chat(**asked)
        _, text = await worker.complete(**asked)
        *chats, _ = await worker.stream("/v1/chat/completions", CHAT | asked)
        *texts, _ = await worker.stream("/v1/completions", TEXT | asked)
    for answer in (chat, text, chats[-1], texts[-1]):
        (choice,) = answer["choices"]
        assert (choice["finish_reason"], choice["stop_reason"]) == (finish, stop)
    for earlier in (*chats[:-1], *texts[:-1]):
        assert "stop_reason" not in earlier["choices"][0]


async def test_usage_in_every_chunk(start: Start) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with start("one two three") as worker:
        *chunks, _ = await worker.stream(
            "/v1/chat/completions", CHAT | {"stream_options": options}
        )
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    prompts = [
        (u["prompt_tokens"], u["prompt_tokens_details"]["cached_tokens"])
        for u in (chunk["usage"] for chunk in chunks)
    ]
    assert set(prompts) == {(len(worker.engine.seen[0].prompt_ids), 1)}


async def test_the_first_chunk_waits_for_what_it_tells(start: Start) -> None:
    """How much of the prompt is cached is known once the engine has looked."""
    usage = {"include_usage": True, "continuous_usage_stats": True}
    body = CHAT | {"stream": True, "stream_options": usage}
    async with (
        start("x", manual=True) as worker,
        worker.session.post("/v1/chat/completions", json=body) as response,
        asyncio.timeout(10),
    ):
        seen = b""
        while b": prefill 0/" not in seen:
            seen += await response.content.readany()
        assert b"data:" not in seen
        worker.engine.allow()
        while b"\n\ndata:" not in seen:
            seen += await response.content.readany()
    for told in (b'"role":"assistant"', b'"completion_tokens":0', b'"cached_tokens":1'):
        assert told in seen


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 256}, "truncate_prompt_tokens"),
        ({"truncation_side": "right"}, "truncation_side"),
        (
            {"spaces_between_special_tokens": True, "skip_special_tokens": False},
            "spaces_between_special_tokens",
        ),
        ({"return_token_ids": 1}, "return_token_ids"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens"),
        ({"length_penalty": 1.5}, "length_penalty"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"priority": 1}, "priority"),
        ({"cache_salt": "x"}, "cache_salt"),
    ],
)
async def test_what_cannot_be_is_named(
    start: Start, fields: dict[str, Any], param: str
) -> None:
    async with start("x") as worker:
        status, answer = await worker.complete(**fields)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_what_asks_for_nothing_is_fine(start: Start) -> None:
    async with start("x", slots=4) as worker:
        status, answer = await worker.complete(
            n=2, best_of=2, use_beam_search=False, length_penalty=1.0, priority=0,
            bad_words=[], spaces_between_special_tokens=True, vllm_xargs={},
        )  # fmt: skip
    assert status == 200, answer
