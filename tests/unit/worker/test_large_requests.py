"""Requests that are large, or too large."""

import threading
from typing import Any

import pytest

from neuron.web import validate
from tests.unit.worker.conftest import Start

CHAT: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Hi"}],
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_prompt_that_is_far_too_long_is_not_even_tokenized(
    start: Start, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> list[int]:
        raise AssertionError("it is tokenized")

    text = "unfortunately " * 1000
    async with start("x") as worker:
        monkeypatch.setattr(type(worker.tokenizer), "encode", never)
        messages = [{"role": "user", "content": text}]
        body = {"model": "scripted", "messages": messages, "prompt": text}
        status, answer = await worker.post(path, body)
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "came to at least 929 tokens" in answer["error"]["message"]


async def test_what_is_cut_to_fit_may_be_of_any_length(start: Start) -> None:
    async with start("x") as worker:
        text = "unfortunately " * 1000
        status, answer = await worker.complete(prompt=text, truncate_prompt_tokens=9)
    assert (status, answer["usage"]["prompt_tokens"]) == (200, 9)


async def test_a_large_body_is_validated_beside_the_streams(start: Start) -> None:
    threads: list[threading.Thread] = []

    def noted(model: Any, value: Any) -> Any:
        threads.append(threading.current_thread())
        return validate(model, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neuron.worker.routes.validate", noted)
        async with start("x") as worker:
            many = [*CHAT["messages"]] * 20_000
            assert (await worker.chat())[0] == 200
            status, answer = await worker.chat(messages=[*many, {"role": "nobody"}])
            assert not worker.inference.text_work.running
    assert (status, answer["error"]["param"]) == (400, "messages[20000].role")
    assert [thread is threading.main_thread() for thread in threads] == [True, False]
