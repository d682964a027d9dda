"""What only text completions have."""

from typing import Any

import pytest

from neuron.engines.base import GenerationRequest
from tests.unit.worker.conftest import Start

TEXT: dict[str, Any] = {"model": "scripted", "prompt": "Once"}


async def test_several_prompts_and_choices(start: Start) -> None:
    def script(request: GenerationRequest) -> list[int]:
        return [request.prompt_ids[-1], 2]

    async with start(script, slots=8) as worker:
        _, whole = await worker.complete(prompt=[[5, 6], [7]], n=2)
        chunks = await worker.stream(
            "/v1/completions", TEXT | {"prompt": ["Once", "time"], "n": 1}
        )
        first, second = (worker.tokenizer.decode([1, i])[0:] for i in (6, 7))
    texts = [choice["text"].strip() for choice in whole["choices"]]
    assert texts == [first.strip()] * 2 + [second.strip()] * 2
    assert whole["usage"]["prompt_tokens"] == 3
    assert whole["usage"]["completion_tokens"] == 8
    streamed = ["", ""]
    for chunk in chunks[:-1]:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["text"]
    assert streamed == [" Once", " time"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [1, 99999]}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
async def test_what_is_wrong_is_named(
    start: Start, fields: dict[str, Any], param: str
) -> None:
    async with start("x") as worker:
        status, answer = await worker.complete(**fields)
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"logprobs": 1}, {}])
async def test_echo_puts_the_prompt_first(start: Start, fields: dict[str, Any]) -> None:
    async with start("upon a time") as worker:
        _, whole = await worker.complete(echo=True, **fields)
        chunks = await worker.stream("/v1/completions", TEXT | fields | {"echo": True})
    expected = "Once" if "max_tokens" in fields else "Once upon a time"
    assert whole["choices"][0]["text"] == expected
    texts = [c["text"] for chunk in chunks[:-1] for c in chunk["choices"]]
    assert "".join(texts) == expected
    assert texts[0].startswith("Once")


async def test_echo_with_logprobs_scores_the_prompt(start: Start) -> None:
    async with start("upon a time") as worker:
        _, whole = await worker.complete(echo=True, logprobs=1)
        chunks = await worker.stream(
            "/v1/completions", TEXT | {"echo": True, "logprobs": 1}
        )
    scores = whole["choices"][0]["logprobs"]
    assert scores["tokens"] == ["<s>", " Once", " upon", " a", " time"]
    assert scores["token_logprobs"] == [None, -0.25, -0.5, -0.5, -0.5]
    assert scores["top_logprobs"][0] is None
    assert scores["top_logprobs"][1] == {" Once": -0.25}
    assert scores["text_offset"] == [0, 0, 4, 9, 11]
    streamed: dict[str, list[Any]] = {}
    for chunk in chunks[:-1]:
        for name, values in chunk["choices"][0]["logprobs"].items():
            streamed.setdefault(name, []).extend(values)
    assert streamed == scores


async def test_a_prompt_of_ids_is_echoed_as_text(start: Start) -> None:
    async with start("x") as worker:
        ids = worker.tokenizer.encode("Once upon", add_bos=True)
        _, whole = await worker.complete(prompt=ids, echo=True, max_tokens=0)
    assert whole["choices"][0]["text"] == "Once upon"


async def test_the_stop_string_can_be_kept(start: Start) -> None:
    async with start("one two three four") as worker:
        _, whole = await worker.complete(
            stop=" three", include_stop_str_in_output=True, logprobs=0
        )
    choice = whole["choices"][0]
    assert choice["text"] == " one two three"
    assert choice["logprobs"]["tokens"] == [" one", " two", " three"]


async def test_stop_strings_wait_for_the_least_tokens(start: Start) -> None:
    async with start("one two one two") as worker:
        _, whole = await worker.complete(stop=" two", min_tokens=3)
    assert whole["choices"][0]["text"] == " one two one"


async def test_special_tokens_can_be_shown(start: Start) -> None:
    async with start(lambda request: [1, 2]) as worker:
        _, hidden = await worker.complete()
        _, shown = await worker.complete(skip_special_tokens=False)
    assert hidden["choices"][0]["text"] == ""
    assert shown["choices"][0]["text"] == "<s>"


async def test_grammars_bind_text_completions_too(start: Start) -> None:
    async with start("x") as worker:
        for fields in (
            {"response_format": {"type": "json_object"}},
            {"guided_choice": ["a", "b"]},
            {"structured_outputs": {"regex": "a+"}},
        ):
            assert (await worker.complete(**fields))[0] == 200
            assert worker.engine.seen[-1].constraint is not None
