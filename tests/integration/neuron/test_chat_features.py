"""Tools, thoughts and structured output on real tokens, with the openai client.

The bundled model gets a chat template here: it has not learned it, so that all that
comes out right is what the neuron sees to.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2 as httpx
import jsonschema
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from neuron.models.bundled import bundled_root
from neuron.protocol import routes
from tests.integration.neuron.conftest import MODEL, Neuron, client_of
from tests.support.pictures import noise, part_of
from tests.support.processes import running_neuron, temporary_home

CHATTY = "chatty"
THINKER = "thinker"
TEMPLATE = """\
{%- for tool in tools or () %}{% if loop.first %}Call as <tool_call>: {% endif %}
{{- tool.function.name }}
{% endfor %}
{%- for message in messages %}{{ message.role }}: {{ message.content or '' }}
{%- for call in message.tool_calls or () %}<tool_call>
{"name": "{{ call.function.name }}",
"arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""
THINKING = TEMPLATE.replace("assistant:{%", "assistant: <think>\n{%")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "pets": {
            "type": "array",
            "items": {"enum": ["dog", "cat", "bird"]},
            "maxItems": 2,
        },
    },
    "required": ["name", "age", "pets"],
    "additionalProperties": False,
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "child", "schema": SCHEMA, "strict": True},
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather somewhere",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 10},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["utc", "cet"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
PARAMETERS = {
    t["function"]["name"]: t["function"]["parameters"] for t in (WEATHER, CLOCK)
}
ASK: Any = [{"role": "user", "content": "Once upon a time there was a boy"}]


@pytest.fixture(scope="session")
def chatty() -> Iterator[Neuron]:
    with temporary_home() as home:
        root = home.root / "models"
        for name, template in ((CHATTY, TEMPLATE), (THINKER, THINKING)):
            shutil.copytree(bundled_root() / MODEL, root / name)
            file = root / name / "chat_template.jinja"
            file.write_text(template, encoding="utf-8")
        home.config_file("neuron.toml", f'models_dirs = ["{root}"]\n')
        with running_neuron(home) as process, client_of(process) as neuron:
            neuron.load(model=CHATTY)
            neuron.load(model=THINKER)
            yield neuron


@pytest.fixture
def client(chatty: Neuron) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=chatty.process.url + "/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
    ) as client:
        yield client


def chat(client: OpenAI, **fields: Any) -> ChatCompletion:
    answer: ChatCompletion = client.chat.completions.create(**_body(fields))
    return answer


def stream(client: OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    options = {"include_usage": True}
    body = _body({"stream": True, "stream_options": options, **fields})
    return [*client.chat.completions.create(**body)]


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    return {"model": CHATTY, "messages": ASK, "max_completion_tokens": 220, **fields}


def told(chunks: Sequence[ChatCompletionChunk], field: str, index: int = 0) -> str:
    return "".join(
        getattr(choice.delta, field, None) or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


def reasons(chunks: Sequence[ChatCompletionChunk]) -> dict[int, str]:
    return {
        choice.index: choice.finish_reason
        for chunk in chunks
        for choice in chunk.choices
        if choice.finish_reason is not None
    }


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_is_followed(client: OpenAI, temperature: float) -> None:
    answer = chat(client, response_format=FORMAT, temperature=temperature, seed=3, n=3)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)


def test_a_schema_is_followed_in_a_stream(client: OpenAI) -> None:
    chunks = stream(client, response_format=FORMAT, temperature=1, seed=5)
    jsonschema.validate(json.loads(told(chunks, "content")), SCHEMA)
    assert reasons(chunks) == {0: "stop"}


def test_json_mode_and_a_regex(client: OpenAI) -> None:
    kind: Any = {"type": "json_object"}
    answer = chat(client, response_format=kind, temperature=0.7, seed=1)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    guided = chat(client, extra_body={"guided_regex": "[ab]{3}[0-9]"}, temperature=1)
    text = guided.choices[0].message.content or ""
    assert len(text) == 4
    assert set(text[:3]) <= set("ab")
    choice = chat(client, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert choice.choices[0].message.content in ("yes", "no")


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "clock"}}],
    ids=["required", "named"],
)
def test_a_call_that_must_be_made(
    client: OpenAI, choice: Any, temperature: float
) -> None:
    answer = chat(
        client,
        tools=[WEATHER, CLOCK],
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=temperature,
        seed=2,
    )
    (made,) = answer.choices
    assert made.finish_reason == "tool_calls"
    assert made.message.content is None
    (call,) = made.message.tool_calls or []
    assert call.type == "function"
    if choice != "required":
        assert call.function.name == "clock"
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, PARAMETERS[call.function.name])


def test_a_call_is_streamed_name_first(client: OpenAI) -> None:
    chunks = stream(
        client,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        temperature=1,
        seed=4,
    )
    calls = [
        call
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    first, *rest = calls
    assert first.id
    assert first.function is not None
    assert first.function.name == "get_weather"
    assert rest
    assert all(call.id is None and call.index == 0 for call in rest)
    arguments = "".join(
        call.function.arguments or "" for call in calls if call.function is not None
    )
    jsonschema.validate(json.loads(arguments), PARAMETERS["get_weather"])
    assert reasons(chunks) == {0: "tool_calls"}


@pytest.mark.parametrize("seed", range(4))
def test_a_call_or_an_answer_that_validates(client: OpenAI, seed: int) -> None:
    answer = chat(
        client,
        tools=[CLOCK],
        parallel_tool_calls=False,
        response_format=FORMAT,
        temperature=1,
        seed=seed,
    )
    message = answer.choices[0].message
    if message.tool_calls:
        assert answer.choices[0].finish_reason == "tool_calls"
    else:
        jsonschema.validate(json.loads(message.content or ""), SCHEMA)


@pytest.mark.parametrize("model", [CHATTY, THINKER])
def test_strict_tools_leave_text_alone(client: OpenAI, model: str) -> None:
    strict = {**CLOCK, "function": {**CLOCK["function"], "strict": True}}
    asked: Any = {"model": model, "temperature": 0, "max_completion_tokens": 40}
    free = chat(client, **asked, tools=[CLOCK, WEATHER])
    held = chat(client, **asked, tools=[strict, WEATHER])
    assert held.choices[0].message == free.choices[0].message


def test_a_strict_tool_that_cannot_be_enforced_is_named(client: OpenAI) -> None:
    parameters = {"type": "object", "properties": {"a": {"uniqueItems": True}}}
    function = {"name": "f", "parameters": parameters, "strict": True}
    tools: Any = [CLOCK, {"type": "function", "function": function}]
    with pytest.raises(openai.BadRequestError, match="strict tool 'f'") as error:
        chat(client, tools=tools)
    assert error.value.param == "tools[1].function.parameters"
    assert "#/properties/a/uniqueItems" in error.value.message


def test_a_conversation_with_calls_goes_on(chatty: Neuron, client: OpenAI) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "clock", "arguments": '{"zone": "utc"}'},
    }
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What time is it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    answer = chat(client, messages=messages, tools=[CLOCK], max_completion_tokens=4)
    assert answer.choices[0].finish_reason == "length"
    body = {"model": CHATTY, "messages": messages, "tools": [CLOCK]}
    tokens = chatty.post(routes.V1_TOKENIZE, body).json()["tokens"]
    back = chatty.post(routes.V1_DETOKENIZE, {"model": CHATTY, "tokens": tokens}).json()
    assert '"arguments": {"zone": "utc"}' in back["prompt"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_thought_is_told_apart_and_limited(client: OpenAI, streaming: bool) -> None:
    fields: dict[str, Any] = {
        "model": THINKER,
        "temperature": 0,
        "max_completion_tokens": 40,
        "extra_body": {"thinking_token_budget": 10},
    }
    if streaming:
        chunks = stream(client, **fields)
        thought, text = told(chunks, "reasoning_content"), told(chunks, "content")
        usage = chunks[-1].usage
    else:
        answer = chat(client, **fields)
        message: Any = answer.choices[0].message
        thought, text, usage = message.reasoning_content, message.content, answer.usage
    assert thought
    assert text
    assert "think>" not in thought + text
    assert usage is not None
    assert usage.completion_tokens_details is not None
    counted = usage.completion_tokens_details.reasoning_tokens
    assert counted is not None
    assert 10 < counted < usage.completion_tokens


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_holds_after_a_thought(client: OpenAI, temperature: float) -> None:
    answer = chat(
        client,
        model=THINKER,
        response_format=FORMAT,
        temperature=temperature,
        seed=6,
        extra_body={"thinking_token_budget": 6},
    )
    message: Any = answer.choices[0].message
    assert message.reasoning_content
    jsonschema.validate(json.loads(message.content), SCHEMA)


def test_a_call_after_a_thought(client: OpenAI) -> None:
    answer = chat(
        client,
        model=THINKER,
        tools=[CLOCK],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1,
        seed=1,
        extra_body={"thinking_token_budget": 5},
    )
    message: Any = answer.choices[0].message
    assert message.reasoning_content
    assert message.content is None
    (call,) = message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS["clock"])


def test_several_choices(client: OpenAI) -> None:
    fields: dict[str, Any] = {
        "n": 3, "temperature": 1, "seed": 11, "max_completion_tokens": 12,
    }  # fmt: skip
    whole = chat(client, **fields)
    chunks = stream(client, **fields)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert [told(chunks, "content", index) for index in range(3)] == texts
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 36
    alone = chat(client, **fields | {"n": 1})
    assert alone.choices[0].message.content == texts[0]
    assert alone.usage is not None
    assert alone.usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_stop_string_ends_the_answer(client: OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_completion_tokens": 60}
    text = chat(client, **fields).choices[0].message.content or ""
    stop = text.split()[4]
    stopped = chat(client, stop=[stop], **fields).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == text[: text.index(stop)]
    kept = chat(
        client,
        stop=[stop],
        extra_body={"include_stop_str_in_output": True},
        **fields,
    )
    assert kept.choices[0].message.content == text[: text.index(stop) + len(stop)]


def test_a_final_message_is_continued(chatty: Neuron, client: OpenAI) -> None:
    messages = [*ASK, {"role": "assistant", "content": "He had a big"}]
    goes_on = {"continue_final_message": True}
    answer = chat(
        client,
        messages=messages,
        extra_body=goes_on,
        temperature=0,
        max_completion_tokens=6,
    )
    body = {"model": CHATTY, "messages": messages, **goes_on}
    tokens = chatty.post(routes.V1_TOKENIZE, body).json()["tokens"]
    fields = {"model": CHATTY, "prompt": tokens, "max_tokens": 6, "temperature": 0}
    text = chatty.post(routes.V1_COMPLETIONS, fields).json()["choices"][0]["text"]
    assert answer.choices[0].message.content == text


def test_tokenize_counts_what_a_chat_is_charged(chatty: Neuron, client: OpenAI) -> None:
    body = {"model": CHATTY, "messages": ASK, "tools": [CLOCK]}
    counted = chatty.post(routes.V1_TOKENIZE, body).json()["count"]
    answer = chat(client, tools=[CLOCK], max_completion_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == counted


def test_echo_scores_the_prompt(client: OpenAI) -> None:
    prompt = "Once upon a time there was a dog."
    answer = client.completions.create(
        model=CHATTY, prompt=prompt, echo=True, logprobs=2, max_tokens=0
    )
    (choice,) = answer.choices
    assert choice.text == prompt
    scores: Any = choice.logprobs
    first, *others = scores.token_logprobs
    assert first is None
    assert all(score <= 0 for score in others)
    # The token itself is always there.
    assert all(2 <= len(top) <= 3 for top in scores.top_logprobs[1:])
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert len(scores.tokens) == answer.usage.prompt_tokens
    longer = client.completions.create(
        model=CHATTY, prompt=prompt, echo=True, logprobs=0, max_tokens=3, temperature=0
    ).choices[0]
    again: Any = longer.logprobs
    assert longer.text.startswith(prompt)
    assert len(again.token_logprobs) == len(scores.token_logprobs) + 3
    assert again.token_logprobs[1 : 1 + len(others)] == pytest.approx(others, abs=1e-4)


def test_several_prompts(client: OpenAI) -> None:
    prompts = ["Once upon a time", "Lily had a red ball.", "The dog"]
    fields: dict[str, Any] = {"model": CHATTY, "max_tokens": 6, "temperature": 0}
    together = client.completions.create(prompt=prompts, n=2, **fields)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3, 4, 5]
    alone = [
        client.completions.create(prompt=prompt, **fields).choices[0].text
        for prompt in prompts
    ]
    assert [c.text for c in together.choices] == [t for t in alone for _ in range(2)]
    chunks = client.completions.create(prompt=prompts, stream=True, **fields)
    streamed = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == alone


def test_what_the_models_can_do_is_told(chatty: Neuron) -> None:
    models = chatty.http.get(routes.MODELS).json()["models"]
    can = {model["id"]: set(model["capabilities"]) for model in models}
    assert "tools" not in can[MODEL]
    assert can[CHATTY] == can[MODEL] | {"chat_template", "tools"}
    assert can[THINKER] == can[CHATTY] | {"reasoning"}


def test_a_model_that_reads_text_alone_refuses_an_image(
    chatty: Neuron, client: OpenAI
) -> None:
    content: Any = [{"type": "text", "text": "What is it?"}, part_of(noise(16, 16))]
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(
            model=CHATTY, messages=[{"role": "user", "content": content}]
        )
    assert error.value.param == "messages[0].content[1]"
    assert error.value.code == "unsupported_parameter"
    models = chatty.http.get(routes.MODELS).json()["models"]
    assert not any("vision" in model["capabilities"] for model in models)


def test_what_cannot_be_is_named(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=CHATTY, prompt="x", suffix="y")
    assert error.value.param == "suffix"
    wrong: Any = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"properties": {"b": {"type": "odd"}}}},
    }
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, response_format=wrong)
    assert error.value.param == "response_format.json_schema.schema"
    assert "#/properties/b" in error.value.message
