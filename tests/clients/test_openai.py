"""The official OpenAI client against a real gateway, neuron and worker."""

import json

import openai
import pytest

from tests.clients.conftest import AGENT, ASSISTANT, MODEL


def test_lists_the_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {AGENT, ASSISTANT, MODEL}
    assert client.models.retrieve(MODEL).object == "model"


def test_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Once upon a time"}],
        max_completion_tokens=24,
        temperature=0,
    )
    assert answer.choices[0].finish_reason == "length"
    assert len((answer.choices[0].message.content or "").split()) > 10
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_streams_the_same_words(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Once upon a time"}],
        max_tokens=24,
        temperature=0,
    )
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Once upon a time"}],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    # On a busy machine, tokens come together.
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1].usage == whole.usage


def test_completes_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Lily had a red ball.", max_tokens=8, seed=1
    )
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8


def test_gets_several_choices_and_structured_output(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}},
              "required": ["a"], "additionalProperties": False}  # fmt: skip
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Once upon a time"}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": schema},
        },
        n=2,
        seed=1,
    )
    for choice in answer.choices:
        assert isinstance(json.loads(choice.message.content or "")["a"], bool)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Once upon a time"}],
        max_tokens=4,
        n=2,
        stream=True,
    )
    seen = {choice.index for chunk in stream for choice in chunk.choices}
    assert seen == {0, 1}


def test_says_which_model_would_have_been_right(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(
            model="nope", messages=[{"role": "user", "content": "hi"}]
        )
    assert refused.value.code == "model_not_found"
    assert MODEL in str(refused.value)


def test_says_which_field_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            temperature=-1,
        )
    assert refused.value.param == "temperature"
