"""Several answers to one request."""

import asyncio
from typing import Any

from neuron.engines.base import EngineError, GenerationRequest
from tests.unit.worker.conftest import Start
from tests.unit.worker.waiting import until

CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Hi"}],
}


def told(chunks: list[Any]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"] if chunk != "[DONE]" else ():
            index = choice["index"]
            texts[index] = texts.get(index, "") + choice["delta"].get("content", "")
    return texts


async def test_more_choices_than_slots(start: Start) -> None:
    async with start("upon a time", slots=2, max_queue=8) as worker:
        status, whole = await worker.chat(n=5)
        chunks = await worker.stream("/v1/chat/completions", CHAT | {"n": 5})
        await until(lambda: worker.admission.running == 0)
    assert status == 200
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3, 4]
    assert {c["message"]["content"] for c in whole["choices"]} == {" upon a time"}
    assert told(chunks) == dict.fromkeys(range(5), " upon a time")
    ends = [
        choice["index"]
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        if choice["finish_reason"] is not None
    ]
    assert sorted(ends) == [0, 1, 2, 3, 4]
    for usage in (whole["usage"], chunks[-2]["usage"]):
        assert usage["completion_tokens"] == 20
        assert usage["prompt_tokens_details"] == {"cached_tokens": 1}
        assert usage["total_tokens"] == usage["prompt_tokens"] + 20
    assert chunks[-1] == "[DONE]"


async def test_each_choice_begins_with_its_role(start: Start) -> None:
    async with start("x") as worker:
        chunks = await worker.stream("/v1/chat/completions", CHAT | {"n": 2})
    roles = [
        choice["index"]
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        if choice["delta"].get("role") == "assistant"
    ]
    assert sorted(roles) == [0, 1]


async def test_seeds_of_the_choices_follow_from_the_requests(start: Start) -> None:
    async with start("x", slots=8) as worker:
        for n in (3, 2):
            await worker.chat(n=n, seed=7)
        await worker.chat(n=2)
        seeds = {r.id.rpartition("-"): r.sampling.seed for r in worker.engine.seen}
    by_request: dict[str, dict[str, int | None]] = {}
    for (request, _, index), seed in seeds.items():
        by_request.setdefault(request, {})[index] = seed
    three, two, unseeded = by_request.values()
    assert three["0"] == 7
    assert len(set(three.values())) == 3
    assert two == {index: three[index] for index in two}
    assert set(unseeded.values()) == {None}


async def test_a_line_without_room_for_all_refuses_all(start: Start) -> None:
    async with start("x", manual=True, slots=2, max_queue=1) as worker:
        first = asyncio.create_task(worker.chat())
        await until(lambda: worker.admission.running == 1)
        status, answer = await worker.chat(n=3)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (worker.admission.running, worker.admission.queued) == (1, 0)
        worker.engine.allow(100)
        assert (await first)[0] == 200
        assert (await worker.chat(n=3))[0] == 200
        status, answer = await worker.chat(n=4)
        assert (status, answer["error"]["param"]) == (400, "n")


async def test_one_that_fails_ends_all(start: Start) -> None:
    def script(request: GenerationRequest) -> list[int]:
        if request.id.endswith("-1"):
            raise EngineError("no", code="invalid_value", param="top_k")
        return [5] * 100_000

    async with start(script) as worker:
        status, answer = await worker.chat(n=2)
        assert (status, answer["error"]["param"]) == (400, "top_k")
        await until(lambda: worker.admission.running == 0)
        await until(lambda: len(worker.engine.cancelled) == 1)
        await until(lambda: not worker.host.busy)


async def test_a_client_that_leaves_takes_all_its_choices_along(start: Start) -> None:
    async with start("x", manual=True, slots=2) as worker:
        body = CHAT | {"stream": True, "n": 4}
        response = await worker.session.post("/v1/chat/completions", json=body)
        await until(lambda: worker.admission.running == 2)
        response.close()
        await until(lambda: worker.admission.running == worker.admission.queued == 0)
        worker.engine.allow()
        await until(lambda: not worker.host.busy)
        assert worker.engine.steps <= 1


async def test_choices_of_two_requests_do_not_wait_for_each_other(
    start: Start,
) -> None:
    async with start("upon a time", slots=2, max_queue=8) as worker:
        answers = await asyncio.gather(*(worker.chat(n=3) for _ in range(3)))
    assert [status for status, _ in answers] == [200] * 3
    assert all(len(answer["choices"]) == 3 for _, answer in answers)


async def test_those_in_line_do_not_hold_up_those_that_run(start: Start) -> None:
    async with start("upon a time", manual=True, slots=1) as worker:
        body = CHAT | {"stream": True, "n": 2}
        async with worker.session.post("/v1/chat/completions", json=body) as response:
            worker.engine.allow(4)
            seen = b""
            async with asyncio.timeout(10):
                while b"time" not in seen:
                    seen += await response.content.readany()
            assert b'"index":1' not in seen
            worker.engine.allow(50)
            seen += await response.read()
        assert b'"index":1' in seen
        assert seen.endswith(b"data: [DONE]\n\n")
