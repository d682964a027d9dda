"""Real tokens from the bundled model, through daemon and worker."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
from openai import OpenAI

from neuron.protocol import headers, routes
from neuron.protocol.sse import SseParser
from tests.integration.neuron.conftest import (
    LONG,
    MODEL,
    STORY,
    Neuron,
    text_of,
)


def test_a_story_comes_as_it_is_written(shared: Neuron) -> None:
    with shared.stream(STORY) as events:
        chunks = [event.data for event in events]
    assert chunks[-1] == "[DONE]"
    texts = [json.loads(chunk)["choices"][0]["text"] for chunk in chunks[:-1]]
    # Tokens that the reader is late for come together.
    assert len([text for text in texts if text]) > 1
    assert "".join(texts) == shared.story()
    last = json.loads(chunks[-2])
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == STORY["max_tokens"]


def test_a_stream_tells_its_prompt_tokens_before_the_first_one(shared: Neuron) -> None:
    body = STORY | {"stream": True, "prompt": ["Once upon a time", "Once"]}
    with shared.http.stream("POST", routes.V1_COMPLETIONS, json=body) as response:
        told = int(response.headers[headers.PROMPT_TOKENS])
        lines = list(response.iter_lines())
    last = json.loads([line for line in lines if line][-2].removeprefix("data: "))
    assert told == last["usage"]["prompt_tokens"] > 0


def test_the_openai_client_chats_whole_and_streamed(shared: Neuron) -> None:
    with OpenAI(
        base_url=shared.process.url + "/v1",
        api_key="none",
        http_client=httpx.Client(trust_env=False),
    ) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        whole = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Once upon a time"}],
            max_completion_tokens=16,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
        )
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Once upon a time"}],
            max_completion_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    choice = whole.choices[0]
    text = choice.message.content
    assert text
    streamed = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(streamed) == text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == text
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert all(t.token == t.top_logprobs[0].token for t in tokens)  # Greedy.


def test_many_at_once_get_what_one_alone_gets(shared: Neuron) -> None:
    alone = shared.story()
    with ThreadPoolExecutor(24) as pool:
        stories = list(pool.map(lambda _: shared.story(), range(24)))
    assert stories == [alone] * 24


def test_a_repeated_prompt_is_cached(shared: Neuron) -> None:
    body = STORY | {"prompt": "Once upon a time there was a big dog. " * 14}
    shared.post(routes.V1_COMPLETIONS, body)
    again = shared.post(routes.V1_COMPLETIONS, body).json()
    details = again["usage"]["prompt_tokens_details"]
    assert 0 <= details["cached_tokens"] < again["usage"]["prompt_tokens"]


def test_a_client_that_leaves_frees_its_slot(shared: Neuron) -> None:
    with shared.stream(LONG) as events:
        next(events)
    shared.until(
        lambda: (shared.worker().in_flight, shared.worker().kv_pages_used) == (0, 0)
    )


def test_the_header_says_who_answers_and_the_body_what_it_is_called(
    shared: Neuron,
) -> None:
    named = {headers.MODEL: MODEL}
    body = STORY | {"model": "gpt-4"}
    whole = shared.http.post(routes.V1_COMPLETIONS, json=body, headers=named).json()
    assert (whole["model"], whole["choices"][0]["text"]) == ("gpt-4", shared.story())
    chat = {"model": "gpt-4", "messages": [{"role": "user", "content": "Once"}]}
    streamed = shared.http.post(
        routes.V1_CHAT_COMPLETIONS,
        json=chat | {"stream": True, "max_tokens": 3},
        headers=named,
    )
    *chunks, done = [event.data for event in SseParser().feed(streamed.content)]
    assert done == "[DONE]"
    assert {json.loads(chunk)["model"] for chunk in chunks} == {"gpt-4"}
    for path, fields in (
        (routes.V1_TOKENIZE, {"prompt": "Once"}),
        (routes.V1_DETOKENIZE, {"tokens": [5]}),
    ):
        asked = {"model": "gpt-4", **fields}
        assert shared.http.post(path, json=asked, headers=named).status_code == 200


@pytest.mark.parametrize(
    ("named", "status", "code"),
    [("no-such", 404, "model_not_found"), ("", 400, "invalid_header")],
)
def test_a_header_that_names_no_model(
    shared: Neuron, named: str, status: int, code: str
) -> None:
    refused = shared.http.post(
        routes.V1_COMPLETIONS, json=STORY, headers={headers.MODEL: named}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def test_tokens_there_and_back(shared: Neuron) -> None:
    body = {"model": MODEL, "prompt": "Once upon a time"}
    tokens = shared.post(routes.V1_TOKENIZE, body).json()["tokens"]
    text = shared.post(routes.V1_DETOKENIZE, {"model": MODEL, "tokens": tokens}).json()
    assert text == {"prompt": "Once upon a time"}
    with shared.stream(STORY | {"prompt": tokens}) as events:
        assert text_of(events) == shared.story()


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{nope", 400, "malformed_json", None),
        (b"[]", 400, "invalid_request_body", None),
        (b"{}", 400, "missing_model_field", "model"),
        (b'{"model": 5}', 400, "invalid_request_body", "model"),
        (b'{"model": "no-such"}', 404, "model_not_found", "model"),
        (b'{"model": "%s"}' % MODEL.encode(), 400, "invalid_request_body", "prompt"),
        (
            b'{"model": "%s", "prompt": "x", "temperature": "hot"}' % MODEL.encode(),
            400,
            "invalid_request_body",
            "temperature",
        ),
    ],
)
def test_bodies_that_are_wrong(
    shared: Neuron, body: bytes, status: int, code: str, param: str | None
) -> None:
    response = shared.http.post(routes.V1_COMPLETIONS, content=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (
        status,
        code,
        param,
    )


def test_wrong_paths_and_methods(shared: Neuron) -> None:
    nothing = shared.http.get("/nothing")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "not_found")
    wrong = shared.http.get(routes.MODELS_LOAD)
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert wrong.headers["Allow"] == "POST"


def test_metrics_say_what_health_says(shared: Neuron) -> None:
    generated = f'neuron_model_generated_tokens_total{{model="{MODEL}"}}'
    shared.until(lambda: generated in shared.http.get(routes.METRICS).text)
    page = shared.http.get(routes.METRICS).text
    assert f'neuron_model_state{{model="{MODEL}",state="ready"}} 1.0' in page
    assert f'neuron_model_in_flight{{model="{MODEL}"}}' in page
    assert f'neuron_model_memory_bytes{{model="{MODEL}"}}' in page
    assert f'neuron_model_rejected_draft_tokens_total{{model="{MODEL}"}} 0.0' in page
    assert "neuron_uptime_seconds" in page
    waits = f'neuron_model_queue_wait_seconds_bucket{{le="60.0",model="{MODEL}"}}'
    assert waits in page
    assert f'neuron_model_loads_total{{model="{MODEL}"}} 1.0' in page
