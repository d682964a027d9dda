"""Requests of web pages, whose origins may be configured."""

import json
import logging
from collections.abc import Mapping

import pytest

from neuron.protocol.types import ModelState
from services import schema
from tests.integration.gateway.gateways import Client
from tests.integration.gateway.keyed import CHAT, bearer, gateway, key
from tests.integration.gateway.test_dialects import ASKS, message_of
from tests.support.processes import Home

PAGE = "https://chat.example"


async def preflight(
    client: Client, origin: str, path: str = CHAT
) -> tuple[int, Mapping[str, str]]:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-stainless-os",
    }
    async with client.http.options(path, headers=headers) as response:
        return response.status, response.headers


async def test_pages_are_shut_out_unless_configured(home: Home) -> None:
    async with gateway(home) as (client, _):
        status, headers = await preflight(client, PAGE)
        assert status == 403
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("origin", [PAGE, "http://evil.example:31313", "null", "", "é"])
async def test_a_page_that_asks_no_permission_makes_nothing_happen(
    home: Home, caplog: pytest.LogCaptureFixture, origin: str
) -> None:
    requests = [
        ("GET", "/", None),
        ("GET", "/v1/models", None),
        ("POST", "/api/nowhere", "{}"),
        ("POST", "/api/generate", '{"model": "m", "keep_alive": 0}'),
        *(("POST", path, json.dumps({"model": "m", **ASKS[path]})) for path in ASKS),
    ]
    caplog.set_level(logging.INFO)
    async with gateway(home, cors_origins=["https://other.example"]) as (client, fake):
        for method, path, body in requests:
            headers = {"Origin": origin, "Content-Type": "text/plain"}
            async with client.http.request(
                method, path, data=body, headers=headers
            ) as response:
                assert response.status == 403
                assert "Access-Control-Allow-Origin" not in response.headers
                said = message_of(path, await response.json())
            assert "cors_origins" in said
            assert f"refused: 403 {said}" in caplog.text
        assert not fake.received
        assert fake.models["m"].state is ModelState.READY


@pytest.mark.parametrize(
    ("configured", "allowed"), [((PAGE,), PAGE), (("*",), "*")], ids=["one", "any"]
)
async def test_a_page_of_an_allowed_origin(
    home: Home, configured: tuple[str, ...], allowed: str
) -> None:
    async with gateway(home, key("alice"), cors_origins=configured) as (client, _):
        status, headers = await preflight(client, PAGE)
        assert status == 204, "a preflight carries no key"
        assert headers["Access-Control-Allow-Origin"] == allowed
        assert headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
        assert "POST" in headers["Access-Control-Allow-Methods"]
        for shows, expected in ((bearer("alice"), 200), ({}, 401)):
            for stream in (False, True):
                sent = {**shows, "Origin": PAGE}
                status, headers = await answered(client, sent, stream=stream)
                assert status == expected
                assert headers["Access-Control-Allow-Origin"] == allowed
                assert "Origin" in headers["Vary"]
                assert "X-Request-Id" in headers["Access-Control-Expose-Headers"]
                assert "Access-Control-Allow-Credentials" not in headers


async def answered(
    client: Client, headers: Mapping[str, str], *, stream: bool
) -> tuple[int, Mapping[str, str]]:
    async with client.http.post(
        CHAT, json={"model": "m", "stream": stream}, headers=headers
    ) as response:
        await response.read()
        return response.status, response.headers


async def test_other_origins_and_the_admin_api_stay_shut(home: Home) -> None:
    async with gateway(home, cors_origins=[PAGE]) as (client, _):
        for origin, path in (("https://evil.example", CHAT), (PAGE, schema.LOAD)):
            status, headers = await preflight(client, origin, path)
            assert status in (403, 405)
            assert "Access-Control-Allow-Origin" not in headers
