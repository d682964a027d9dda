"""Stored responses by the official OpenAI client, on a real gateway and neuron."""

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from services.keys.edit import add
from tests.clients.conftest import MODEL
from tests.clients.test_openai_responses import ONCE, TALE
from tests.support.processes import Home, Process, running_gateway, temporary_home


@pytest.fixture(scope="module")
def storing_home() -> Iterator[Home]:
    with temporary_home() as home:
        home.config_file(
            "cortex.toml", '[gateway]\nauth = "none"\n[responses]\nstore = true\n'
        )
        yield home


@pytest.fixture(scope="module")
def storing(storing_home: Home) -> Iterator[Process]:
    free = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
    with running_gateway(storing_home, environ=free) as process:
        yield process


@pytest.fixture
def remembered(storing: Process) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{storing.url}/v1", api_key="x", max_retries=0
    ) as client:
        yield client


def test_follows_a_stored_response_at_once(remembered: openai.OpenAI) -> None:
    with remembered.responses.create(**TALE, stream=True) as stream:
        *_, last = stream
    assert last.type == "response.incomplete"
    first = last.response
    more = remembered.responses.create(
        **TALE | {"input": "And then"}, previous_response_id=first.id
    )
    assert more.previous_response_id == first.id
    inline: Any = [
        {"role": "user", "content": ONCE},
        *first.output,
        {"role": "user", "content": "And then"},
    ]
    again = remembered.responses.create(**TALE | {"input": inline})
    assert more.output_text == again.output_text
    assert more.usage is not None
    assert again.usage is not None
    assert more.usage.input_tokens == again.usage.input_tokens
    counted = remembered.responses.input_tokens.count(
        model=MODEL, input="And then", previous_response_id=first.id
    )
    assert counted.input_tokens == more.usage.input_tokens


def test_refers_to_stored_items(remembered: openai.OpenAI) -> None:
    first = remembered.responses.create(**TALE)
    [message] = first.output
    assert message.type == "message"
    items: Any = [
        {"role": "user", "content": ONCE},
        {"type": "item_reference", "id": message.id},
        {"role": "user", "content": "And then"},
    ]
    by_reference = remembered.responses.create(**TALE | {"input": items})
    whole = remembered.responses.create(
        **TALE | {"input": "And then"}, previous_response_id=first.id
    )
    assert by_reference.output_text == whole.output_text


def test_stored_responses_are_got_and_deleted(remembered: openai.OpenAI) -> None:
    first = remembered.responses.create(**TALE)
    found = remembered.responses.retrieve(first.id)
    assert found == first
    items: Any = [
        {"id": "msg_own", "type": "message", "role": "user", "content": "And then"}
    ]
    more = remembered.responses.create(
        **TALE | {"input": items}, previous_response_id=first.id
    )
    listed = remembered.responses.input_items.list(more.id, order="asc", limit=2)
    assert listed.has_more
    everything: Any = list(listed)
    assert [item.role for item in everything] == ["user", "assistant", "user"]
    assert everything[1].id == first.output[0].id
    assert everything[2].id == "msg_own"
    remembered.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=first.id):
        remembered.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as refused:
        remembered.responses.create(**TALE, previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_found"


def test_what_is_not_to_be_stored_is_not(remembered: openai.OpenAI) -> None:
    first = remembered.responses.create(**TALE, store=False)
    with pytest.raises(openai.NotFoundError):
        remembered.responses.retrieve(first.id)


def test_a_response_is_for_the_key_that_asked(
    storing: Process, storing_home: Home, remembered: openai.OpenAI
) -> None:
    keys = storing_home.root / "config" / "cortex" / "keys.toml"
    _, mine = add(keys, name="mine")
    _, yours = add(keys, name="yours")
    me, you = (remembered.with_options(api_key=key) for key in (mine, yours))
    deadline = time.monotonic() + 10
    while True:
        first = me.responses.create(**TALE)
        try:
            remembered.responses.retrieve(first.id)
        except openai.NotFoundError:
            break
        assert time.monotonic() < deadline, "the keys are not known"
    assert me.responses.retrieve(first.id) == first
    with pytest.raises(openai.NotFoundError):
        you.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError):
        you.responses.create(**TALE, previous_response_id=first.id)
