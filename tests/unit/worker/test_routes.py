"""OpenAI's routes, answered by a scripted engine."""

import asyncio
from typing import Any

import pytest

from neuron.engines.base import EngineError
from neuron.protocol.errors import shutting_down
from neuron.worker.unsupported import UNSUPPORTED
from tests.unit.worker.conftest import Start
from tests.unit.worker.waiting import until

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "scripted", "prompt": "Once"}
TOOL = {"type": "function", "function": {"name": "look"}}
INVALID = "invalid_request_body"
KWARGS = "chat_template_kwargs."


def named(tool: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool}}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def chat_text(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for chunk in chunks
        if isinstance(chunk, dict)
        for choice in chunk["choices"]
    )


async def test_a_whole_chat_answer(start: Start) -> None:
    async with start("upon a time") as worker:
        status, answer = await worker.chat()
    assert status == 200
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": " upon a time"}
    assert choice["finish_reason"] == "stop"
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    used = answer["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
    assert set(answer["timings"]) == {"queue_s", "prefill_s", "decode_s"}
    assert all(span >= 0 for span in answer["timings"].values())


async def test_a_chat_stream_begins_with_the_role_and_ends_with_done(
    start: Start,
) -> None:
    async with start("upon a time") as worker:
        chunks = await worker.stream("/v1/chat/completions", CHAT)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chat_text(chunks) == " upon a time"
    assert chunks[-1] == "[DONE]"
    last = chunks[-2]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] == 4
    assert last["timings"]["prefill_s"] >= 0
    assert len({chunk["id"] for chunk in chunks[:-1]}) == 1


async def test_usage_comes_in_its_own_chunk_where_asked_for(start: Start) -> None:
    async with start("upon a time") as worker:
        body = CHAT | {"stream_options": {"include_usage": True}}
        chunks = await worker.stream("/v1/chat/completions", body)
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == 4
    assert all(chunk["usage"] is None for chunk in chunks[:-2])


async def test_text_completions_whole_and_streamed(start: Start) -> None:
    async with start("upon a time") as worker:
        _, whole = await worker.complete()
        chunks = await worker.stream("/v1/completions", TEXT)
    assert whole["choices"][0]["text"] == " upon a time"
    text = "".join(c["choices"][0]["text"] for c in chunks if isinstance(c, dict))
    assert text == " upon a time"
    assert chunks[-1] == "[DONE]"


@pytest.mark.parametrize("nested", [False, True])
async def test_a_prompt_of_token_ids_is_taken_as_it_is(
    start: Start, nested: bool
) -> None:
    seen = []

    def script(request: Any) -> list[int]:
        seen.append(request.prompt_ids)
        return [2]

    async with start(script) as worker:
        ids = [5, 6, 7]
        status, _ = await worker.complete(prompt=[ids] if nested else ids)
    assert (status, seen) == (200, [(5, 6, 7)])


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
async def test_stop_strings_end_the_answer_and_are_not_in_it(
    start: Start, route: str
) -> None:
    async with start("one two three four five") as worker:
        body = (TEXT if "chat" not in route else CHAT) | {"stop": " three"}
        chunks = await worker.stream(route, body)
        status, whole = await worker.post(route, body)
        await until(lambda: not worker.host.busy)
        assert worker.admission.running == 0
    assert status == 200
    last = chunks[-2]["choices"][0]
    assert last["finish_reason"] == "stop"
    choice = whole["choices"][0]
    text = choice["text"] if "chat" not in route else choice["message"]["content"]
    assert text == " one two"


async def test_chat_logprobs(start: Start) -> None:
    async with start("upon a time") as worker:
        _, answer = await worker.chat(logprobs=True, top_logprobs=1)
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == [" upon", " a", " time"]
    assert content[0]["logprob"] == -0.5
    assert bytes(content[0]["bytes"]) == b" upon"
    assert content[0]["top_logprobs"][0]["token"] == " upon"


async def test_completion_logprobs(start: Start) -> None:
    async with start("upon a time") as worker:
        _, answer = await worker.complete(logprobs=1)
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [" upon", " a", " time"]
    assert logprobs["text_offset"] == [0, 5, 7]
    assert logprobs["top_logprobs"][0] == {" upon": -0.5}


async def test_the_newer_cap_wins_and_none_means_what_is_left(start: Start) -> None:
    caps = []

    def script(request: Any) -> list[int]:
        caps.append((request.max_new_tokens, len(request.prompt_ids)))
        return [2]

    async with start(script) as worker:
        await worker.complete(max_tokens=9, max_completion_tokens=4)
        await worker.complete(max_tokens=9)
        await worker.complete(max_tokens=9000)
        await worker.complete()
    left = 256 - caps[0][1]
    assert [cap for cap, _ in caps] == [4, 9, left, left]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_request_body"),
        ({"temperature": 3}, "temperature", "invalid_request_body"),
        ({"max_tokens": 0}, "max_tokens", "invalid_request_body"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_request_body"),
        ({"stop": [""]}, "stop[0]", "invalid_request_body"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_request_body"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_request_body"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_request_body"),
        ({"messages": []}, "messages", "invalid_request_body"),
        ({"messages": [{"role": "king"}]}, "messages[0].role", "invalid_request_body"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "invalid_request_body",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            "unsupported_parameter",
        ),
        ({"messages": [{"role": "function"}]}, "messages[0].role", INVALID),
        ({"tools": [{"type": "function"}]}, "tools[0].function", INVALID),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", INVALID),
        ({"tool_choice": "required"}, "tool_choice", INVALID),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice", INVALID),
        ({"tools": [TOOL], "tool_choice": named("other")}, "tool_choice", INVALID),
        ({"tools": [TOOL]}, "tools", INVALID),
        ({"n": 0}, "n", INVALID),
        ({"n": 129}, "n", INVALID),
        ({"top_logprobs": 21}, "top_logprobs", INVALID),
        ({"top_logprobs": 1}, "top_logprobs", INVALID),
        ({"stream_options": {"include_usage": True}}, "stream_options", INVALID),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            UNSUPPORTED,
        ),
        ({"logit_bias": {"1_0": 1}}, "logit_bias", INVALID),
        ({"user": 5}, "user", INVALID),
        ({"metadata": {"a": 1}}, "metadata.a", INVALID),
        ({"service_tier": "flex"}, "service_tier", UNSUPPORTED),
        ({"verbosity": "low"}, "verbosity", UNSUPPORTED),
        ({"echo": True}, "echo", UNSUPPORTED),
        ({"response_format": {"type": "xml"}}, "response_format.type", INVALID),
        (
            {"response_format": json_schema({"type": "strange"})},
            "response_format.json_schema.schema",
            "invalid_grammar",
        ),
        ({"guided_regex": "("}, "guided_regex", "invalid_grammar"),
        ({"guided_grammar": "start: x"}, "guided_grammar", "invalid_grammar"),
        (
            {"guided_regex": "a", "structured_outputs": {"regex": "a"}},
            "guided_regex",
            INVALID,
        ),
        ({"structured_outputs": {"magic": 1}}, "structured_outputs.magic", INVALID),
        ({"chat_template_kwargs": {"messages": []}}, KWARGS + "messages", INVALID),
        ({"modalities": ["text", "audio"]}, "modalities", UNSUPPORTED),
        ({"audio": {"voice": "x"}}, "audio", UNSUPPORTED),
        ({"prediction": {"type": "content"}}, "prediction", UNSUPPORTED),
        ({"store": True}, "store", UNSUPPORTED),
        ({"web_search_options": {}}, "web_search_options", UNSUPPORTED),
        ({"functions": [{}]}, "functions", UNSUPPORTED),
    ],
)
async def test_what_cannot_be_honoured_is_named(
    start: Start, fields: dict[str, Any], param: str, code: str
) -> None:
    async with start("x") as worker:
        status, answer = await worker.chat(**fields)
    error = answer["error"]
    assert (status, error["param"], error["code"]) == (400, param, code)
    assert param.split("[")[0] in error["message"]
    assert error["type"] == "invalid_request_error"


async def test_fields_that_ask_for_nothing_or_are_unknown_are_fine(
    start: Start,
) -> None:
    async with start("x") as worker:
        status, _ = await worker.chat(
            tools=[], tool_choice="auto", n=1, response_format={"type": "text"},
            user="me", store=False, metadata={"a": "b"}, made_up=1,
        )  # fmt: skip
    assert status == 200


async def test_content_may_come_in_parts_and_developers_are_systems(
    start: Start,
) -> None:
    template = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    seen = []

    def script(request: Any) -> list[int]:
        seen.append(request.prompt_ids)
        return [2]

    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    async with start(script, template=template) as worker:
        messages = [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None},
        ]
        status, _ = await worker.chat(messages=messages)
        expected = worker.tokenizer.encode(
            "[system:d][user:a\nb][assistant:]", add_bos=False
        )
    assert status == 200
    assert seen == [tuple(expected)]


async def test_a_template_that_refuses_is_quoted(start: Start) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    async with start("x", template=template) as worker:
        status, answer = await worker.chat()
    assert status == 422
    assert answer["error"]["code"] == "template_render_failed"
    assert "roles must alternate" in answer["error"]["message"]


async def test_a_prompt_that_is_too_long_says_how_long_it_may_be(start: Start) -> None:
    async with start("x") as worker:
        status, answer = await worker.complete(prompt="Once upon a time " * 100)
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 256 tokens" in answer["error"]["message"]


async def test_framework_errors_wear_the_envelope_too(start: Start) -> None:
    async with start("x", max_body_bytes=1000) as worker:
        post = worker.post
        assert (await post("/v1/completions", b"{nope"))[1]["error"]["code"] == (
            "malformed_json"
        )
        assert (await post("/v1/completions", b"[]"))[1]["error"]["code"] == (
            "invalid_request_body"
        )
        status, answer = await post("/v1/completions", b"x" * 2000)
        assert (status, answer["error"]["code"]) == (413, "request_too_large")
        status, answer = await post("/v1/nothing", {})
        assert (status, answer["error"]["code"]) == (404, "not_found")
        async with worker.session.get("/v1/completions") as response:
            answer = await response.json()
            assert (response.status, answer["error"]["code"]) == (
                405,
                "method_not_allowed",
            )
            assert response.headers["Allow"] == "POST"


async def test_an_engines_refusal_keeps_its_code(start: Start) -> None:
    async with start("x") as worker:
        worker.engine.refuse = EngineError(
            "top_k: too many", code="invalid_value", param="top_k"
        )
        status, answer = await worker.complete()
    assert (status, answer["error"]["param"]) == (400, "top_k")


async def test_a_failure_in_a_stream_is_an_event_without_done(start: Start) -> None:
    async with start("x") as worker:
        worker.engine.break_at = 2
        chunks = await worker.stream("/v1/chat/completions", CHAT)
    assert chunks[-1]["error"]["code"] == "engine_failed"


async def test_tokenize_and_back(start: Start) -> None:
    async with start("x") as worker:
        status, answer = await worker.post(
            "/v1/tokenize", TEXT | {"return_token_strs": True}
        )
        assert status == 200
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        assert answer["max_model_len"] == 256
        assert answer["tokens"][0] == 1
        _, text = await worker.post(
            "/v1/detokenize", {"model": "scripted", "tokens": answer["tokens"]}
        )
        assert text == {"prompt": "Once"}
        _, chat = await worker.post("/v1/tokenize", CHAT)
        assert chat["count"] > 0
        status, answer = await worker.post("/v1/tokenize", {"model": "scripted"})
        assert (status, answer["error"]["param"]) == (400, "prompt")
        status, answer = await worker.post(
            "/v1/detokenize", {"model": "scripted", "tokens": [-1]}
        )
        assert (status, answer["error"]["param"]) == (400, "tokens")


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_leaves_in_prefill_takes_its_request_along(
    start: Start, streaming: bool
) -> None:
    async with start("x", manual=True) as worker:
        body = CHAT | {"stream": streaming}
        sending = asyncio.create_task(
            worker.session.post("/v1/chat/completions", json=body)
        )
        await until(lambda: worker.host.busy)
        if streaming:
            (await sending).close()
        else:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: worker.admission.running == 0)
        worker.engine.allow()
        await until(lambda: not worker.host.busy)
        assert worker.engine.steps <= 1
        assert len(worker.engine.cancelled) == 1


async def test_a_client_that_leaves_the_line_frees_its_place(start: Start) -> None:
    async with start("x", manual=True, slots=1) as worker:
        first = asyncio.create_task(worker.chat())
        await until(lambda: worker.admission.running == 1)
        second = asyncio.create_task(worker.chat())
        await until(lambda: worker.admission.queued == 1)
        second.cancel()
        await until(lambda: worker.admission.queued == 0)
        worker.engine.allow(10)
        status, _ = await first
        assert status == 200


async def test_more_answers_than_ever_fit_are_refused_for_good(start: Start) -> None:
    async with start("x", slots=1, max_queue=2) as worker:
        status, answer = await worker.chat(n=4)
        assert (status, answer["error"]["param"]) == (400, "n")
        assert (await worker.chat(n=3))[0] == 200
        assert (worker.admission.running, worker.admission.queued) == (0, 0)


async def test_callers_and_classes_named_in_headers_decide_who_waits(
    start: Start,
) -> None:
    async with start("x", manual=True, slots=1, max_queue=2) as worker:
        admission = worker.admission

        async def ask(seed: int, caller: str, priority: int = 0) -> int:
            said = {"X-Cortex-Caller": caller, "X-Cortex-Priority": str(priority)}
            body = CHAT | {"seed": seed}
            status, _ = await worker.post("/v1/chat/completions", body, headers=said)
            return status

        async def inside(count: int) -> None:
            await until(lambda: admission.running + admission.queued == count)

        async with asyncio.TaskGroup() as group:
            greedy = []
            for count in (1, 2, 3):
                greedy.append(group.create_task(ask(count, "greedy")))
                await inside(count)
                await until(lambda: admission.running == 1)
            modest = group.create_task(ask(4, "modest"))
            await until(lambda: admission.rejections["made_room"] == 1)
            urgent = group.create_task(ask(5, "urgent", 1))
            await until(lambda: admission.rejections["made_room"] == 2)
            await until(lambda: not admission.preparing)
            worker.engine.allow(100)
        assert [task.result() for task in greedy] == [200, 200, 429]
        assert (modest.result(), urgent.result()) == (429, 200)
        assert [request.sampling.seed for request in worker.engine.seen] == [1, 5, 2]
        status, answer = await worker.post(
            "/v1/chat/completions", CHAT, headers={"X-Cortex-Priority": "urgent"}
        )
        assert (status, answer["error"]["param"]) == (400, "X-Cortex-Priority")


async def test_a_full_line_is_a_clean_429_even_for_a_stream(start: Start) -> None:
    async with start("x", manual=True, slots=1, max_queue=0) as worker:
        first = asyncio.create_task(worker.chat())
        await until(lambda: worker.admission.running == 1)
        body = CHAT | {"stream": True}
        async with worker.session.post("/v1/chat/completions", json=body) as response:
            answer = await response.json()
            assert response.status == 429
            assert response.headers["Retry-After"]
            assert answer["error"]["code"] == "rate_limit_exceeded"
        worker.engine.allow(10)
        await first


async def test_a_silent_prefill_is_filled_with_comments(start: Start) -> None:
    async with start("x", manual=True) as worker:
        body = CHAT | {"stream": True}
        async with worker.session.post("/v1/chat/completions", json=body) as response:
            seen = b""
            async with asyncio.timeout(10):
                while b": prefill 0/" not in seen:
                    seen += await response.content.readany()
        assert b'"role":"assistant"' in seen


async def test_a_stream_in_line_is_kept_warm(start: Start) -> None:
    async with start("x", manual=True, slots=1) as worker:
        first = asyncio.create_task(worker.chat())
        await until(lambda: worker.admission.running == 1)
        body = CHAT | {"stream": True}
        async with worker.session.post("/v1/chat/completions", json=body) as response:
            async with asyncio.timeout(10):
                assert await response.content.readline() == b": queued\n"
            worker.engine.allow(20)
            rest = await response.text()
        assert rest.endswith("data: [DONE]\n\n")
        await first


async def test_a_line_that_closes_ends_the_streams_in_it(start: Start) -> None:
    async with start("x", manual=True, slots=1) as worker:
        first = asyncio.create_task(worker.chat())
        await until(lambda: worker.admission.running == 1)
        whole = asyncio.create_task(worker.chat())
        body = CHAT | {"stream": True}
        async with worker.session.post("/v1/chat/completions", json=body) as response:
            assert await response.content.readline() == b": queued\n"
            assert worker.admission.queued == 2
            worker.admission.close(shutting_down())
            rest = await response.text()
        assert '"code":"shutting_down"' in rest
        assert "[DONE]" not in rest
        status, answer = await whole
        assert (status, answer["error"]["code"]) == (503, "shutting_down")
        worker.engine.allow(20)
        assert (await first)[0] == 200


async def test_stopping_ends_streams_with_an_error(start: Start) -> None:
    async with start("x", manual=True) as worker:
        streaming = asyncio.create_task(worker.stream("/v1/chat/completions", CHAT))
        await until(lambda: worker.host.busy)
        worker.inference.stop(shutting_down())
        chunks = await streaming
        assert chunks[-1]["error"]["code"] == "shutting_down"
        worker.engine.allow(10)
