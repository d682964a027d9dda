"""The table of clients: what `connect`, the README and the tests are made from."""

from cortex_tui.connect.agents import AGENTS
from cortex_tui.connect.client import Client
from cortex_tui.connect.libraries import LIBRARIES

CLIENTS: tuple[Client, ...] = (*AGENTS, *LIBRARIES)


def find(id_: str) -> Client | None:
    return next((client for client in CLIENTS if client.id == id_), None)
