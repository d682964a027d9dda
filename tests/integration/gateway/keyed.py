"""A gateway that knows keys, before a fake neuron."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.keys import secret
from services.keys.file import KeySection
from tests.integration.gateway.gateways import Client, gateway_before
from tests.support.fake_neuron import FakeNeuron
from tests.support.processes import Home

CHAT = "/v1/chat/completions"


def shown(key_id: str) -> str:
    return f"ck-{key_id}-{'a' * 48}"


def key(key_id: str, **fields: Any) -> KeySection:
    return KeySection.model_validate(
        {
            "id": key_id,
            "name": key_id.title(),
            "hash": secret.hashed(shown(key_id)),
            **fields,
        }
    )


def bearer(key_id: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {shown(key_id)}"}


@asynccontextmanager
async def gateway(
    home: Home, *keys: KeySection, **limits: Any
) -> AsyncIterator[tuple[Client, FakeNeuron]]:
    async with (
        FakeNeuron.with_models("m", "other").serving() as fake,
        gateway_before(home, {"a": fake}, keys=keys, **limits) as client,
    ):
        yield client, fake
