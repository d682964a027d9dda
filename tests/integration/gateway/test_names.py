"""Names that clients know models by, and what they get for them."""

import logging

import orjson
import pytest

from services.catalogue import ModelEntry
from tests.integration.gateway.gateways import gateway_before
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home

ENTRIES = (
    ModelEntry(id="small", aliases=("claude-haiku-*", "gpt-4o-mini", "alone")),
    ModelEntry(id="large", aliases=("claude-*", "gpt-*")),
    ModelEntry(id="gone", aliases=("ghost",)),
)


async def test_a_name_reaches_the_model_it_stands_for(home: Home) -> None:
    async with (
        FakeNeuron.with_models("small", "large", "gpt-oss-20b").serving() as fake,
        gateway_before(home, {"a": fake}, models=ENTRIES) as client,
    ):
        for asked, model in (
            ("claude-haiku-4-5-20251001", "small"),
            ("claude-opus-5", "large"),
            ("gpt-4o-mini", "small"),
            ("gpt-5", "large"),
            ("gpt-oss-20b", "gpt-oss-20b"),
            ("large", "large"),
        ):
            async with client.chat(asked) as response:
                assert response.status == 200
                assert response.headers["X-Cortex-Model"] == model
            received = fake.received[-1]
            assert received.headers["X-Cortex-Model"] == model
            assert orjson.loads(received.body)["model"] == asked


async def test_what_stands_for_nothing_is_refused_by_name(home: Home) -> None:
    async with (
        FakeNeuron.with_models("small").serving() as fake,
        gateway_before(home, {"a": fake}, models=ENTRIES) as client,
    ):
        for asked, missing in (("llama", "llama"), ("ghost", "gone")):
            async with client.chat(asked) as response:
                assert response.status == 404
                error = (await response.json())["error"]
            assert error["code"] == "model_not_found"
            assert f"'{missing}'" in error["message"]


async def test_a_name_is_no_text(home: Home) -> None:
    async with (
        FakeNeuron.with_models("small").serving() as fake,
        gateway_before(home, {"a": fake}, default_model="small") as client,
    ):
        async with client.chat("x" * 512) as response:
            assert response.status == 200
        for path in ("/v1/chat/completions", "/v1/embeddings", "/api/generate"):
            refused = await client.post(path, 400, model="x" * 513)
            assert "model: should name one" in str(refused["error"])


async def test_a_name_has_no_line_of_its_own_in_the_log(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        FakeNeuron.with_models("small").serving() as fake,
        gateway_before(home, {"a": fake}) as client,
    ):
        await client.post("/v1/embeddings", 404, model="a\nb", input="x")
    assert "refused: 404 model 'a?b' does not exist" in caplog.text


async def test_a_default_model_answers_for_every_other_name(home: Home) -> None:
    async with (
        FakeNeuron.with_models("small", "large").serving() as fake,
        gateway_before(
            home, {"a": fake}, models=ENTRIES, default_model="large"
        ) as client,
    ):
        for asked, model in (("whatever", "large"), ("alone", "small")):
            async with client.chat(asked) as response:
                assert response.headers["X-Cortex-Model"] == model


async def test_nothing_stands_in_for_a_model_that_is_gone(home: Home) -> None:
    entries = (*ENTRIES, ModelEntry(id="gpt-oss-20b"))
    async with (
        FakeNeuron.with_models("small", "large").serving() as fake,
        gateway_before(
            home, {"a": fake}, models=entries, default_model="small"
        ) as client,
    ):
        for asked in ("gone", "ghost", "gpt-oss-20b", "gone:latest"):
            refused = await client.post("/v1/embeddings", 404, model=asked, input="x")
            assert refused["error"]["code"] == "model_not_found"


async def test_the_default_model_may_be_named_by_an_alias(home: Home) -> None:
    async with (
        FakeNeuron.with_models("small", "large").serving() as fake,
        gateway_before(
            home, {"a": fake}, models=ENTRIES, default_model="alone"
        ) as client,
    ):
        for asked, model in (("whatever", "small"), ("gpt-5", "large")):
            async with client.chat(asked) as response:
                assert response.headers["X-Cortex-Model"] == model


async def test_one_model_is_told_as_a_request_would_reach_it(home: Home) -> None:
    async with (
        FakeNeuron.with_models("small", "large").serving() as fake,
        gateway_before(
            home, {"a": fake}, models=ENTRIES, default_model="large"
        ) as client,
    ):
        for asked in ("small:latest", "alone:latest", "claude-haiku-4", "whatever"):
            async with client.chat(asked) as response:
                model = response.headers["X-Cortex-Model"]
            one = await client.get(f"/v1/models/{asked}")
            assert (one["id"], one["alias_of"]) == (asked, model)
        await client.get("/v1/models/ghost", 404)


async def test_aliases_are_listed_beside_the_models_that_are_served(
    home: Home,
) -> None:
    async with (
        FakeNeuron.with_models("small", "large").serving() as fake,
        gateway_before(home, {"a": fake}, models=ENTRIES) as client,
    ):
        listed = (await client.get("/v1/models"))["data"]
        assert [(m["id"], m.get("alias_of")) for m in listed] == [
            ("alone", "small"),
            ("gpt-4o-mini", "small"),
            ("large", None),
            ("small", None),
        ]
        one = await client.get("/v1/models/claude-opus-5")
        assert (one["id"], one["alias_of"]) == ("claude-opus-5", "large")
        await client.get("/v1/models/llama", 404)


async def test_embeddings_are_refused_with_the_models_name(home: Home) -> None:
    async with (
        FakeNeuron.with_models("small").serving() as fake,
        gateway_before(home, {"a": fake}, models=ENTRIES) as client,
    ):
        refused = await client.post("/v1/embeddings", 400, model="alone", input="x")
        assert "'small'" in refused["error"]["message"]
        await client.post("/v1/embeddings", 404, model="llama", input="x")
        assert not fake.received
