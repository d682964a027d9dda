"""Who may ask for what, and what of it is counted."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from neuron.protocol.headers import CALLER, PRIORITY
from neuron.protocol.types import ModelState
from services import schema
from services.catalogue import CostSection, ModelEntry
from services.keys import secret
from services.keys.file import KeySection
from services.keys.ledger import Spent
from services.schema import KeyList
from tests.integration.gateway.gateways import (
    Client,
    EventReader,
    gateway_before,
    until,
)
from tests.integration.gateway.keyed import CHAT, bearer, gateway, key, shown
from tests.integration.gateway.test_dialects import ASKS, DIALECTS, message_of
from tests.support import fake_neuron
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home

TOKENS = fake_neuron.PROMPT + 3
"""Of one answer of the fake neuron."""


async def asked(
    client: Client,
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
    path: str = CHAT,
    **fields: Any,
) -> tuple[int, Any, Mapping[str, str]]:
    """Status, decoded body and headers."""
    body = {"model": "m", "messages": [], **fields} if method == "POST" else None
    async with client.http.request(
        method, path, json=body, headers=headers
    ) as response:
        answer = await response.json(content_type=None) if method != "HEAD" else None
        return response.status, answer, response.headers


async def statuses(client: Client, *headers: Mapping[str, str] | None) -> list[int]:
    return [(await asked(client, each))[0] for each in headers]


# The door.


async def test_without_keys_everybody_may_come_with_any_placeholder(home: Home) -> None:
    async with gateway(home) as (client, _):
        placeholders = ({"Authorization": "Bearer dummy"}, {"x-api-key": "sk-1"}, None)
        assert await statuses(client, *placeholders) == [200, 200, 200]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {shown('alice')}"},
        {"Authorization": f"bearer  {shown('alice')} "},
        {"x-api-key": shown("alice")},
        {"api-key": shown("alice")},
        {"Authorization": "Bearer dummy", "x-api-key": shown("alice")},
        {"Authorization": "Basic Zm9v", "X-API-Key": shown("alice")},
        CIMultiDict([("x-api-key", "dummy"), ("x-api-key", shown("alice"))]),
    ],
)
async def test_a_key_in_any_header(home: Home, headers: dict[str, str]) -> None:
    async with gateway(home, key("alice")) as (client, _):
        assert await statuses(client, headers) == [200]


async def test_whoever_shows_no_key_is_refused(home: Home) -> None:
    async with gateway(home, key("alice"), key("gone", revoked=True)) as (client, fake):
        for headers, says in (
            (None, "this gateway needs a key"),
            ({"Authorization": "Bearer dummy"}, "not one of this gateway's"),
            (bearer("nobody"), "not one of this gateway's"),
            (bearer("gone"), "the key was revoked"),
        ):
            status, answer, told = await asked(client, headers)
            assert status == 401
            assert answer["error"]["code"] == "invalid_api_key"
            assert answer["error"]["type"] == "authentication_error"
            assert says in answer["error"]["message"]
            assert told["WWW-Authenticate"] == "Bearer"
        assert fake.received == []
        metrics = await client.metrics()
        assert 'cortex_unauthorized_total{code="invalid_api_key"} 4.0' in metrics


async def test_every_path_but_the_signs_of_life_needs_one(home: Home) -> None:
    async with gateway(home, key("alice")) as (client, _):
        for path in ("/", "/health", "/version"):
            for method in ("GET", "HEAD"):
                assert (await asked(client, None, method, path))[0] == 200
        for path in ("/v1/models", "/v1/models/m", schema.FLEET, schema.EVENTS, "/x"):
            assert (await asked(client, None, "GET", path))[0] == 401
        for path in (schema.LOAD, CHAT, "/v1/tokenize", "/health"):
            assert (await asked(client, None, "POST", path))[0] == 401


@pytest.mark.parametrize(
    ("auth", "keys", "status"),
    [
        (None, (), 200),
        (None, (key("gone", revoked=True),), 401),
        ("keys", (), 401),
        ("none", (key("alice"),), 200),
    ],
)
async def test_when_keys_are_asked_for(
    home: Home, auth: str | None, keys: tuple[KeySection, ...], status: int
) -> None:
    async with gateway(home, *keys, auth=auth) as (client, _):
        assert await statuses(client, None) == [status]


async def test_the_socket_needs_no_key(home: Home) -> None:
    async with gateway(home, key("alice")):
        path = str(home.root / "run" / "gateway.sock")
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as local,
            local.get(f"http://cortex{schema.KEYS}") as response,
        ):
            told = KeyList.model_validate_json(await response.read())
    assert [k.name for k in told.keys] == ["Alice"]
    assert told.required


async def test_a_key_holds_to_its_limits_even_where_none_is_asked_for(
    home: Home,
) -> None:
    alice = key("alice", models=["other"])
    async with gateway(home, alice, auth="none") as (client, fake):
        assert await statuses(client, None, bearer("alice")) == [200, 403]
        assert CALLER in fake.received[0].headers


# Scopes.

_MAY = {
    "admin": {"models", "chat", "fleet", "keys", "pin"},
    "inference": {"models", "chat"},
    "read-only": {"models", "fleet"},
}


@pytest.mark.parametrize("scope", list(_MAY))
async def test_what_each_scope_may(home: Home, scope: str) -> None:
    async with gateway(home, key("alice", scope=scope)) as (client, _):
        requests = {
            "models": ("GET", "/v1/models/m"),
            "chat": ("POST", CHAT),
            "fleet": ("GET", schema.FLEET),
            "keys": ("GET", schema.KEYS),
            "pin": ("POST", schema.PIN),
        }
        for what, (method, path) in requests.items():
            status, answer, _ = await asked(client, bearer("alice"), method, path)
            if what in _MAY[scope]:
                assert status == 200, (what, answer)
            else:
                assert status == 403, what
                assert answer["error"]["code"] == "insufficient_scope"
                assert f"'Alice' has the scope {scope}" in answer["error"]["message"]


async def test_the_guard_against_web_pages_stays(home: Home) -> None:
    async with gateway(
        home, key("alice", scope="admin"), cors_origins=["https://chat.example"]
    ) as (client, _):
        page = {**bearer("alice"), "Origin": "https://chat.example"}
        status, answer, headers = await asked(client, page, "GET", schema.FLEET)
        assert (status, answer["error"]["code"]) == (403, "forbidden")
        assert "Access-Control-Allow-Origin" not in headers


ALICE = key("alice", scope="read-only")


@pytest.mark.parametrize(
    ("began", "then", "headers"),
    [
        (ALICE, key("alice", revoked=True), bearer("alice")),
        (ALICE, key("alice", scope="inference"), bearer("alice")),
        (ALICE, key("alice", hash=secret.hashed("another")), bearer("alice")),
        (None, ALICE, {}),
    ],
    ids=["revoked", "out of scope", "rotated", "without a key"],
)
async def test_who_is_no_longer_let_in_hears_no_more_of_the_fleet(
    home: Home, began: KeySection | None, then: KeySection, headers: dict[str, str]
) -> None:
    async with gateway(home, *([began] if began else [])) as (client, _):
        keeper = client.gateway.keys
        async with client.http.get(schema.EVENTS, headers=headers) as stream:
            await EventReader(stream).next("snapshot")
            keeper.take(replace(keeper.keys, entries=(then,)))
            async with asyncio.timeout(10):
                while await stream.content.readany():
                    pass


async def test_who_asked_is_in_the_journal(home: Home) -> None:
    async with gateway(home, key("alice", scope="admin")) as (client, _):
        status, answer, _ = await asked(client, bearer("alice"), "POST", schema.PIN)
        assert status == 200
        assert answer["by"] == "an operator from 127.0.0.1 with the key 'Alice'"


# Models.


async def test_models_a_key_may_not_use_do_not_exist_for_it(home: Home) -> None:
    async with gateway(home, key("alice", models=["o*"])) as (client, fake):
        _, listed, _ = await asked(client, bearer("alice"), "GET", "/v1/models")
        assert [model["id"] for model in listed["data"]] == ["other"]
        status, _, _ = await asked(client, bearer("alice"), "GET", "/v1/models/m")
        assert status == 404
        status, answer, _ = await asked(client, bearer("alice"), model="other")
        assert status == 200
        for path in (CHAT, "/v1/embeddings"):
            status, answer, _ = await asked(
                client, bearer("alice"), path=path, model="m"
            )
            assert status == 403
            assert answer["error"]["code"] == "model_not_allowed"
            assert answer["error"]["param"] == "model"
        assert len(fake.received) == 1
        status, answer, _ = await asked(client, bearer("alice"), model="none")
        assert status == 404
        assert answer["error"]["message"].endswith("available: other")


async def test_an_alias_is_checked_by_the_model_that_it_stands_for(home: Home) -> None:
    models = (ModelEntry(id="m", aliases=("other-*",)),)
    async with (
        FakeNeuron.with_models("m").serving() as fake,
        gateway_before(
            home, {"a": fake}, models=models, keys=(key("alice", models=["other*"]),)
        ) as client,
    ):
        status, answer, _ = await asked(client, bearer("alice"), model="other-1")
        assert status == 403
        assert "may not use 'm'" in answer["error"]["message"]


# Rates and budgets.


async def test_requests_per_minute(home: Home) -> None:
    async with gateway(home, key("alice", requests_per_minute=2)) as (client, fake):
        for _ in range(3):
            await asked(client, bearer("alice"), "GET", "/v1/models")
            await asked(client, bearer("alice"), path="/v1/tokenize", prompt="x")
        assert await statuses(client, *[bearer("alice")] * 2) == [200, 200]
        status, answer, headers = await asked(client, bearer("alice"))
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert answer["error"]["type"] == "rate_limit_error"
        assert 55 <= int(headers["Retry-After"]) <= 61
        assert len([r for r in fake.received if r.path == CHAT]) == 2
        metrics = await client.metrics()
        assert 'cortex_key_requests_total{key="Alice",status="429"} 1.0' in metrics


async def test_of_many_at_once_no_more_begin_than_may(home: Home) -> None:
    async with gateway(home, key("alice", requests_per_minute=5)) as (client, fake):
        fake.reply = fake_neuron.story(["a"], pace_s=0.05)
        answers = await asyncio.gather(
            *(asked(client, bearer("alice"), stream=False) for _ in range(20))
        )
        assert sorted(status for status, _, _ in answers) == [200] * 5 + [429] * 15
        assert len(fake.received) == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_per_minute(home: Home, stream: bool) -> None:
    async with gateway(home, key("alice", tokens_per_minute=TOKENS + 1)) as (client, _):
        for expected in (200, 200, 429):
            async with client.http.post(
                CHAT, json={"model": "m", "stream": stream}, headers=bearer("alice")
            ) as response:
                await response.read()
                assert response.status == expected


async def test_a_budget_says_when_it_renews(home: Home) -> None:
    alice = key("alice", budget_tokens=TOKENS, window="1h")
    async with gateway(home, alice, key("bobb")) as (client, _):
        assert await statuses(client, bearer("alice"), bearer("bobb")) == [200, 200]
        status, answer, headers = await asked(client, bearer("alice"))
        assert (status, answer["error"]["code"]) == (429, "insufficient_quota")
        assert "it renews at 20" in answer["error"]["message"]
        assert abs(answer["error"]["renews_at"] - alice.renews_at(time.time())) < 2
        assert 0 < int(headers["Retry-After"]) <= 3600
        assert await statuses(client, bearer("bobb")) == [200]


async def test_a_budget_of_money(home: Home) -> None:
    cost = CostSection(input=1e6, output=2e6, cached_input=0.5e6)
    spent = 3 * 1.0 + 4 * 0.5 + 3 * 2.0
    alice = key("alice", budget_cost=spent + 1)
    async with (
        FakeNeuron.with_models("m", "free").serving() as fake,
        gateway_before(
            home, {"a": fake}, models=(ModelEntry(id="m", cost=cost),), keys=(alice,)
        ) as client,
    ):
        headers = bearer("alice")
        assert (await asked(client, headers, model="free"))[0] == 200
        assert await statuses(client, headers, headers, headers) == [200, 200, 429]
        metrics = await client.metrics()
        assert f'cortex_key_cost_total{{key="Alice"}} {2 * spent}' in metrics


async def test_an_answer_whose_client_left_is_paid_for_as_far_as_it_went(
    home: Home,
) -> None:
    async with gateway(home, key("alice")) as (client, fake):
        fake.reply = fake_neuron.endless(pace_s=0.001)
        async with client.http.post(
            CHAT, json={"model": "m", "stream": True}, headers=bearer("alice")
        ) as response:
            while b"x" not in await response.content.readany():
                pass
        keys = client.gateway.keys
        await until(lambda: keys.limits.last_minute(key("alice"))[1] > 0)
        spent = keys.limits.spent(key("alice"), time.time())
        assert spent.prompt == fake_neuron.PROMPT
        assert spent.completion > 0
        assert not client.snapshot().requests


async def test_spending_is_in_metrics_and_in_the_list(home: Home) -> None:
    alice = key("alice", scope="admin", budget_tokens=1000)
    async with gateway(home, alice, key("bobb", revoked=True)) as (client, _):
        assert await statuses(client, bearer("alice"), bearer("alice")) == [200, 200]
        metrics = await client.metrics()
        for kind, count in (("prompt", 14.0), ("cached", 8.0), ("completion", 6.0)):
            line = f'cortex_key_tokens_total{{key="Alice",kind="{kind}"}} {count}'
            assert line in metrics
        assert 'cortex_key_requests_total{key="Alice",status="200"} 2.0' in metrics
        _, told, _ = await asked(client, bearer("alice"), "GET", schema.KEYS)
        listed = KeyList.model_validate(told)
        first, second = listed.keys
        assert (first.requests, first.prompt_tokens, first.completion_tokens) == (
            2,
            14,
            6,
        )
        assert (first.last_minute_requests, first.last_minute_tokens) == (2, 20)
        assert first.last_used is not None
        assert (second.revoked, second.last_used) == (True, None)
        assert alice.hash not in str(told)


@DIALECTS
async def test_a_spent_budget_is_not_waited_for(home: Home, path: str) -> None:
    alice = key("alice", budget_tokens=1, window="52w")
    async with gateway(home, alice) as (client, _):
        client.gateway.keys.limits.end(alice, Spent(prompt=1, last_used=time.time()))
        body, headers = {"model": "m", **ASKS[path]}, bearer("alice")
        async with client.http.post(path, json=body, headers=headers) as response:
            assert response.status == 429
            assert "has spent its budget" in message_of(path, await response.json())
            assert response.headers["X-Should-Retry"] == "false"


@DIALECTS
async def test_refusals_come_in_the_dialect(home: Home, path: str) -> None:
    keys = key("alice", models=["other"]), key("bobb", requests_per_minute=1)
    async with gateway(home, *keys, key("carl", scope="read-only")) as (client, _):
        limited, body = bearer("bobb"), {"model": "m", **ASKS[path]}
        client.gateway.keys.limits.begin(keys[1])
        for headers, expected, says in (
            ({}, 401, "this gateway needs a key"),
            (bearer("alice"), 403, "'Alice' may not use 'm'"),
            (bearer("carl"), 403, "'Carl' has the scope read-only"),
            (limited, 429, "'Bobb' has used up its requests per minute (1)"),
        ):
            async with client.http.post(path, json=body, headers=headers) as response:
                assert response.status == expected
                assert says in message_of(path, await response.json())
                assert ("Retry-After" in response.headers) == (expected == 429)


# What a neuron and a log get to know.


async def test_the_key_does_not_travel_and_is_not_logged(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with gateway(home, key("alice", priority=7)) as (client, fake):
        headers = {**bearer("alice"), "x-api-key": shown("alice"), PRIORITY: "1000"}
        assert await statuses(client, headers) == [200]
        assert await statuses(client, {"x-api-key": shown("nobody")}) == [401]
        (received,) = fake.received
        assert received.headers[CALLER] == "key alice"
        assert received.headers[PRIORITY] == "7"
        assert received.headers["Authorization"] == "Bearer token-of-a"
        assert "x-api-key" not in received.headers
        assert shown("alice") not in str(received)
    assert "key=Alice" in caplog.text
    assert "a" * 48 not in caplog.text


async def test_a_path_forges_no_line_of_the_log(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway(home, key("alice", scope="read-only")) as (client, _):
        path = URL("/v1/x%0A2026-01-01%20forged", encoded=True)
        async with client.http.get(path, headers=bearer("alice")) as response:
            assert response.status == 403
    (refused,) = [r for r in caplog.messages if "forged" in r]
    assert "\n" not in refused


async def test_without_a_key_a_client_has_no_class_of_its_own_choice(
    home: Home,
) -> None:
    async with gateway(home) as (client, fake):
        assert await statuses(client, {PRIORITY: "1000", CALLER: "vip"}) == [200]
        (received,) = fake.received
        assert PRIORITY not in received.headers
        assert received.headers[CALLER].startswith("127.0.0.1")


async def test_a_request_in_flight_shows_whose_it_is(home: Home) -> None:
    async with gateway(home, key("alice")) as (client, fake):
        fake.reply = fake_neuron.hangs()
        task = asyncio.create_task(asked(client, bearer("alice")))
        await until(lambda: bool(client.snapshot().requests))
        assert client.snapshot().requests[0].client.startswith("Alice 127.0.0.1 ")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not client.snapshot().requests)


async def test_two_keys_at_one_address_are_two_callers(home: Home) -> None:
    async with gateway(home, key("alice"), key("bobb")) as (client, fake):
        await statuses(client, bearer("alice"), bearer("bobb"))
        assert {r.headers[CALLER] for r in fake.received} == {"key alice", "key bobb"}


async def test_a_request_that_loads_its_model_is_counted_once(home: Home) -> None:
    async with gateway(home, key("alice", requests_per_minute=1)) as (client, fake):
        fake.set_state("m", ModelState.UNLOADED)
        await until(lambda: client.snapshot().models[0].state is ModelState.UNLOADED)
        assert await statuses(client, bearer("alice"), bearer("alice")) == [200, 429]
