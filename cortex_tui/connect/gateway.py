"""What a client has to know of a gateway, asked of the gateway itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, urlsplit

from cortex_tui import plain_http
from cortex_tui.connect.client import Connection
from cortex_tui.plain_http import Refused
from cortex_tui.target import Target
from neuron.protocol import routes

_UNAUTHORIZED: Final = 401
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
_NAMED_AT_MOST: Final = 8
_KEY_REQUIRED: Final = (
    "this gateway requires keys: make one with `cortex-tui keys add NAME`, and give it "
    "with --key or CORTEX_KEY"
)


@dataclass(frozen=True, slots=True)
class Offer:
    """One model as the gateway lists it."""

    id: str
    loaded: bool = False
    pinned: bool = False
    alias: bool = False
    context: int | None = None
    capabilities: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Offer":
        return cls(
            str(entry["id"]),
            bool(entry.get("loaded")),
            bool(entry.get("pinned")),
            bool(entry.get("alias_of")),
            entry.get("max_model_len"),
            frozenset(entry.get("capabilities") or ()),
        )

    @property
    def why(self) -> str:
        return (
            "pinned" if self.pinned else "loaded" if self.loaded else "not loaded yet"
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """How to connect, and what the user should know of it."""

    connection: Connection
    notes: tuple[str, ...]


def ask(where: Target, model: str | None) -> Answer:
    """How to connect to the gateway at `where`, with that model or the best one.

    Raises:
        Unreachable: nobody answers.
        Refused: the key or the model is not accepted, or there is no model.
    """
    where = replace(where, url=_from_here(where.url))
    notes = []
    # What clients will do: they have no socket.
    by_url = replace(where, socket=None)
    try:
        offers = _offers(by_url, model)
    except Refused as error:
        if error.status != _UNAUTHORIZED or where.key is not None:
            raise
        notes.append(f"{_KEY_REQUIRED}; it will refuse the placeholder")
        offers = _without_key(where, model)
    chosen, *others = offers
    if others:
        notes.append(_choice(chosen, others))
    connection = Connection(
        where.url, chosen.id, where.key, chosen.context, chosen.capabilities
    )
    return Answer(connection, tuple(notes))


def _without_key(where: Target, model: str | None) -> list[Offer]:
    """What the socket tells; elsewhere the model has to be named."""
    if where.socket is not None:
        return _offers(where, model)
    if model is None:
        raise Refused(_KEY_REQUIRED)
    return [Offer(model, capabilities=frozenset({"chat", "tools"}))]


def _offers(where: Target, model: str | None) -> list[Offer]:
    """The named model, or all, the best one first."""
    if model is not None:
        path = f"{routes.V1_MODELS}/{quote(model)}"
        return [_read(plain_http.request(where, "GET", path), where)]
    listed = _read_list(plain_http.request(where, "GET", routes.V1_MODELS), where)
    offers = [offer for offer in listed if not offer.alias]
    if not offers:
        whom = "this key" if where.key else "anybody"
        raise Refused(f"the gateway has no model to serve to {whom}")
    return sorted(offers, key=_rank)


def _rank(offer: Offer) -> tuple[bool, bool, bool, bool, str]:
    missing = ("tools" not in offer.capabilities, "chat" not in offer.capabilities)
    return (not offer.pinned, not offer.loaded, *missing, offer.id)


def _choice(chosen: Offer, others: Sequence[Offer]) -> str:
    names = [offer.id for offer in others[:_NAMED_AT_MOST]]
    if len(others) > len(names):
        names.append("…")
    return f"model {chosen.id} ({chosen.why}); --model takes {', '.join(names)}"


def _read(content: bytes, where: Target) -> Offer:
    try:
        return Offer.of(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise plain_http.no_gateway(where) from error


def _read_list(content: bytes, where: Target) -> list[Offer]:
    try:
        return [Offer.of(entry) for entry in json.loads(content)["data"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise plain_http.no_gateway(where) from error


def _from_here(url: str) -> str:
    """A URL that can be connected to, of a gateway that listens on every address."""
    parts = urlsplit(url)
    host = _EVERYWHERE.get(parts.hostname or "")
    return f"{parts.scheme}://{host}:{parts.port}" if host else url
