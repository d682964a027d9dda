"""A real gateway and neuron with a model whose context holds an agent's prompt."""

from collections.abc import Iterator

import pytest

from services.keys import edit
from tests.support.long_context import LONG_CONTEXT, long_context_model
from tests.support.processes import Home, Process, running_gateway, temporary_home


@pytest.fixture(scope="session")
def agents_home() -> Iterator[Home]:
    with temporary_home() as home:
        yield home


@pytest.fixture(scope="session")
def key(agents_home: Home) -> str:
    """One that the gateway asks for."""
    path = agents_home.config_file("keys.toml", "")
    return edit.add(path, name="agents")[1]


@pytest.fixture(scope="session")
def gateway(agents_home: Home, key: str) -> Iterator[Process]:
    long_context_model(agents_home.models)
    aliases = f'[[models]]\nid = "{LONG_CONTEXT}"\naliases = ["claude-*"]\n'
    agents_home.config_file("models.toml", aliases)
    free = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
    with running_gateway(agents_home, environ=free) as process:
        yield process
