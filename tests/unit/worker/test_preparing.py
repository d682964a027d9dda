"""What a client sees, and what others feel, while its request is being prepared."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from neuron.protocol.errors import shutting_down
from neuron.text.abandonment import stop_if_abandoned
from neuron.worker.prompts import PromptText, ServedModel
from tests.unit.worker.conftest import Start, Worker
from tests.unit.worker.waiting import until

CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Hi"}],
}
_FOR = "{% for i in range(99999) %}"
NEVER_ENDS = f"{_FOR}{_FOR}{{% endfor %}}{{% endfor %}}"


class Gate:
    """Holds the making of prompts up."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = self.left = 0

    def wait(self) -> None:
        self.begun += 1
        try:
            while not self.open.wait(0.001):
                stop_if_abandoned()
        finally:
            self.left += 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    prompts = ServedModel.prompts

    def held_up(model: ServedModel, *arguments: Any) -> list[PromptText]:
        gate.wait()
        return prompts(model, *arguments)

    monkeypatch.setattr(ServedModel, "prompts", held_up)
    yield gate
    gate.open.set()


async def test_a_stream_is_kept_warm_and_begins_with_its_role(
    start: Start, gate: Gate
) -> None:
    async with start("x") as worker:
        body = CHAT | {"stream": True}
        async with worker.session.post("/v1/chat/completions", json=body) as response:
            async with asyncio.timeout(10):
                assert await response.content.readline() == b": preparing\n"
                assert await response.content.readline() == b"\n"
            assert (worker.admission.running, worker.admission.queued) == (0, 1)
            gate.open.set()
            rest = await response.text()
    assert '"role":"assistant"' in rest.split("\n\n")[0]
    assert rest.endswith("data: [DONE]\n\n")


async def test_an_error_after_the_stream_opened_is_an_event(
    start: Start, gate: Gate
) -> None:
    async with start("x", template="{{ raise_exception('no') }}") as worker:
        body = CHAT | {"stream": True}
        async with worker.session.post("/v1/chat/completions", json=body) as response:
            assert await response.content.readline() == b": preparing\n"
            gate.open.set()
            rest = await response.text()
        assert worker.admission.queued == 0
    assert '"code":"template_render_failed"' in rest
    assert "[DONE]" not in rest


async def test_an_error_before_is_a_clean_status(start: Start) -> None:
    async with start("x", template="{{ raise_exception('no') }}") as worker:
        status, answer = await worker.chat(stream=True)
    assert (status, answer["error"]["code"]) == (422, "template_render_failed")


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_leaves_ends_its_preparation(
    start: Start, gate: Gate, streaming: bool
) -> None:
    async with start("x") as worker:
        sending = asyncio.create_task(worker.chat(stream=streaming, n=2))
        await until(lambda: gate.begun == 1)
        assert worker.admission.preparing == 2
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: worker.admission.queued == 0)
        await until(lambda: gate.left == 1)
        await until(lambda: not worker.inference.text_work.running)
        assert worker.engine.seen == []


async def test_a_template_that_runs_on_ends_with_its_client(start: Start) -> None:
    async with start("x", template=NEVER_ENDS) as worker:
        sending = asyncio.create_task(worker.chat())
        await until(lambda: worker.inference.text_work.running == 1)
        sending.cancel()
        await until(lambda: not worker.inference.text_work.running)


async def test_others_pass_who_is_being_prepared(start: Start, gate: Gate) -> None:
    async with start("x", slots=1, max_queue=1) as worker:
        slow = asyncio.create_task(worker.chat())
        await until(lambda: gate.begun == 1)
        quick = asyncio.create_task(worker.chat())
        await until(lambda: gate.begun == 2)
        status, answer = await worker.chat()
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        gate.open.set()
        assert [(await task)[0] for task in (slow, quick)] == [200, 200]


@asynccontextmanager
async def asked(worker: Worker, caller: str, **fields: Any) -> AsyncIterator[Any]:
    headers = {"X-Cortex-Caller": caller}
    sending = asyncio.create_task(
        worker.session.post("/v1/chat/completions", json=CHAT | fields, headers=headers)
    )
    try:
        yield sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_line_that_closes_ends_preparations(
    start: Start, gate: Gate, streaming: bool
) -> None:
    async with start("x") as worker:
        sending = asyncio.create_task(worker.chat(stream=streaming))
        await until(lambda: gate.begun == 1)
        worker.admission.close(shutting_down())
        status, answer = await sending
        assert (status, answer["error"]["code"]) == (503, "shutting_down")
        await until(lambda: gate.left == 1)


async def test_losing_one_place_while_preparing_loses_all(
    start: Start, gate: Gate
) -> None:
    async with start("x", slots=1, max_queue=2) as worker:
        async with asked(worker, "greedy", n=3) as greedy:
            await until(lambda: gate.begun == 1)
            async with asked(worker, "modest") as modest:
                response = await greedy
                assert response.status == 429
                assert response.headers["Retry-After"]
                assert "another caller" in await response.text()
                await until(lambda: worker.admission.queued == 1)
                gate.open.set()
                assert (await modest).status == 200
        assert len(worker.engine.seen) == 1
        assert worker.admission.rejections == {"made_room": 1}


async def test_losing_one_place_in_line_loses_all(start: Start) -> None:
    async with start("x", manual=True, slots=1, max_queue=2) as worker:
        admission = worker.admission
        async with asked(worker, "greedy", n=3) as greedy:
            await until(lambda: admission.running == 1 and admission.queued == 2)
            async with asked(worker, "modest") as modest:
                response = await greedy
                assert response.status == 429
                assert response.headers["Retry-After"]
                # The one that ran already gave its slot to who came.
                await until(lambda: admission.running == 1 and not admission.queued)
                worker.engine.allow(20)
                assert (await modest).status == 200
        await until(lambda: not worker.host.busy)
        assert len(worker.engine.cancelled) == 1
        assert (admission.running, admission.queued) == (0, 0)


async def test_a_stream_that_loses_a_place_ends_with_an_error(start: Start) -> None:
    async with (
        start("upon a time", manual=True, slots=1, max_queue=2) as worker,
        asked(worker, "greedy", n=3, stream=True) as greedy,
    ):
        response = await greedy
        assert response.status == 200
        async with asked(worker, "modest") as modest:
            rest = await response.text()
            assert '"code":"rate_limit_exceeded"' in rest
            assert "[DONE]" not in rest
            worker.engine.allow(20)
            assert (await modest).status == 200
