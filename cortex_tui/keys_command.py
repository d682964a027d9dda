"""`cortex-tui keys`: make, list, revoke and rotate the keys of a gateway.

Keys are in a file, so that none of it needs a gateway; one that runs reads the file as
it changes.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cortex_tui.outcome import Outcome

if TYPE_CHECKING:
    import argparse

    from cortex_tui.format import Glyphs
    from cortex_tui.target import Target
    from services.schema import KeyList


_FIRST: Final = (
    "it is the first one: the gateway now refuses whoever shows none, unless "
    '`[gateway] auth` is "none"'
)


class KeysError(Exception):
    """It was not done; the message says why."""


def run(
    arguments: argparse.Namespace, here: Target | None, there: Target | None, g: Glyphs
) -> Outcome:
    """Do it; `here` is the gateway of this host, where one runs, and `there` the one
    that was named.

    Raises:
        KeysError: it was not done.
        Unreachable: nobody answers where a gateway was named.
        Refused: that gateway will not tell.
    """
    from neuron.protocol.config_file import ConfigError
    from services.keys.edit import KeyNameError

    config: Path | None = getattr(arguments, "config", None)
    try:
        if arguments.verb == "list":
            return _list(arguments, config, here, there, g)
        done = _changed(_file(config, here), arguments)
    except (ConfigError, KeyNameError) as error:
        raise KeysError(str(error)) from error
    if here is not None:
        _told(here)  # Which makes it look: the change is in force once this returns.
    return done


def _changed(path: Path, arguments: argparse.Namespace) -> Outcome:
    if arguments.verb == "add":
        return _add(path, arguments)
    if arguments.verb == "revoke":
        return _revoke(path, arguments.name)
    return _rotate(path, arguments.name, arguments.grace)


def _file(config: Path | None, here: Target | None) -> Path:
    """The keys.toml that is meant: the one of the gateway that runs, if one does."""
    from services.keys.file import KEYS_TOML, lookup

    if config is not None:
        return config.parent / KEYS_TOML
    if here is not None and (told := _told(here)) is not None:
        return Path(told.path)
    return lookup()


def _add(path: Path, arguments: argparse.Namespace) -> Outcome:
    from services.keys import edit
    from services.keys.file import read_keys

    first = not read_keys(path).entries
    models = None if arguments.models is None else arguments.models.split(",")
    fields: dict[str, Any] = {
        "name": arguments.name,
        "scope": arguments.scope,
        "models": models,
        "requests_per_minute": arguments.rpm,
        "tokens_per_minute": arguments.tpm,
        "budget_tokens": arguments.budget_tokens,
        "budget_cost": arguments.budget_cost,
        "window": arguments.window,
        "priority": arguments.priority,
        "created_at": _now(),
    }
    key, shown = edit.add(path, **fields)
    note = f"the key of '{key.name}', shown this once; its hash is in {path}"
    return Outcome(shown, (note, _FIRST) if first else (note,))


def _revoke(path: Path, name: str) -> Outcome:
    from services.keys import edit

    key = edit.revoke(path, name)
    return Outcome(f"revoked the key of '{key.name}', ck-{key.id}")


def _rotate(path: Path, name: str, grace: str | None) -> Outcome:
    from services.keys import edit, window

    until = None
    if grace is not None:
        try:
            until = _now() + timedelta(hours=window.hours(grace))
        except ValueError as error:
            raise KeysError(f"--grace: {error}") from error
    key, shown = edit.rotate(path, name, until)
    old = "is good no more" if until is None else f"is good until {until:%F %H:%M} UTC"
    note = f"the new key of '{key.name}', shown this once; the old one {old}"
    return Outcome(shown, (note,))


def _list(
    arguments: argparse.Namespace,
    config: Path | None,
    here: Target | None,
    there: Target | None,
    g: Glyphs,
) -> Outcome:
    from cortex_tui import key_rows, table

    keys = _keys(config, here, there)
    notes = (keys.warning,) if keys.warning else ()
    if arguments.json:
        return Outcome(keys.model_dump_json(indent=2), notes)
    if not keys.keys:
        return Outcome(f"no keys in {keys.path}", notes)
    rows = key_rows.key_rows(keys.keys, g, time.time())
    lines = table.plain(key_rows.KEYS, rows)
    return Outcome("\n".join([*lines, "", key_rows.summary(keys)]), notes)


def _keys(config: Path | None, here: Target | None, there: Target | None) -> KeyList:
    """As a gateway tells them; without one, as the files have them."""
    if there is not None:
        return _ask(there)
    if config is None and here is not None and (told := _told(here)) is not None:
        return told
    from services.keys.file import read_keys
    from services.keys.offline import key_list

    return key_list(read_keys(_file(config, None)))


def _told(here: Target) -> KeyList | None:
    """What the gateway of this host says; None where it says nothing of keys."""
    from cortex_tui.plain_http import Refused, Unreachable

    try:
        return _ask(here)
    except (Refused, Unreachable):
        return None


def _ask(where: Target) -> KeyList:
    from cortex_tui import plain_http
    from services import schema

    content = plain_http.request(where, "GET", schema.KEYS)
    try:
        return schema.KeyList.model_validate_json(content)
    except ValueError as error:
        raise plain_http.no_gateway(where) from error


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
