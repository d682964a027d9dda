"""Edits of keys.toml: keys made, revoked, and their secrets replaced. Blocking."""

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import tomlkit
from pydantic import ValidationError
from tomlkit.items import Table

from neuron.protocol.config_file import ConfigError
from services import toml_file
from services.keys import secret
from services.keys.file import KeySection, read_keys

_NOT_OTHERS: Final = 0o770
_HEAD: Final = """\
# Who may use the gateway. Written by `cortex-tui keys`, and may be edited by hand; the
# gateway reads it as it changes.

"""


class KeyNameError(Exception):
    """There is no such key, or one already; the message says which."""


def add(path: Path, **fields: Any) -> tuple[KeySection, str]:
    """A new key, and the secret that opens it, which is kept nowhere.

    `fields` are those of its entry, but for `id` and `hash`; None is left out.

    Raises:
        KeyNameError: the name is taken.
        ConfigError: the file cannot be used, or written, or a field is wrong.
    """
    key_id = secret.new_id()
    shown = secret.new_secret(key_id)
    values = {"id": key_id, "hash": secret.hashed(shown)}
    values |= {name: value for name, value in fields.items() if value is not None}
    key = _valid(values)
    with _editing(path) as document:
        for other in read_keys(path).entries:
            if other.name == key.name and not other.revoked:
                raise KeyNameError(f"there is a key '{key.name}' already")
        ordered = {n: values[n] for n in KeySection.model_fields if n in values}
        toml_file.add_table(document, "keys", ordered)
    return key, shown


def revoke(path: Path, who: str) -> KeySection:
    """Refuse this key from now on.

    Raises:
        KeyNameError: there is no such key, or it is revoked already.
        ConfigError: the file cannot be used, or written.
    """
    with _editing(path) as document:
        key = find(read_keys(path).entries, who)
        table = _table_of(document, key)
        table["revoked"] = True
        _forget_previous(table)
    return key


def rotate(path: Path, who: str, old_until: datetime | None) -> tuple[KeySection, str]:
    """Give this key a new secret; the old one is good until `old_until`, if at all.

    Raises:
        KeyNameError: there is no such key, or it is revoked.
        ConfigError: the file cannot be used, or written.
    """
    with _editing(path) as document:
        key = find(read_keys(path).entries, who)
        shown = secret.new_secret(key.id)
        table = _table_of(document, key)
        _forget_previous(table)
        if old_until is not None:
            table["previous_hash"] = key.hash
            table["previous_until"] = old_until
        table["hash"] = secret.hashed(shown)
    return key, shown


def find(entries: tuple[KeySection, ...], who: str) -> KeySection:
    """The key that is meant by its name, its id or `ck-<id>`, and is not revoked.

    Raises:
        KeyNameError: there is none.
    """
    wanted = who.removeprefix(f"{secret.PREFIX}-")
    meant = [key for key in entries if key.name == who or key.id == wanted]
    for key in meant:
        if not key.revoked:
            return key
    if meant:
        raise KeyNameError(f"the key '{who}' is revoked")
    names = ", ".join(key.name for key in entries if not key.revoked) or "none"
    raise KeyNameError(f"there is no key '{who}'; there is: {names}")


def _valid(values: dict[str, Any]) -> KeySection:
    try:
        return KeySection.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{field}: {reason}") from error


def _editing(path: Path) -> AbstractContextManager[tomlkit.TOMLDocument]:
    return toml_file.editing(path, head=_HEAD, most=_NOT_OTHERS)


def _table_of(document: tomlkit.TOMLDocument, key: KeySection) -> Table:
    tables = toml_file.tables(document, "keys")
    return next(table for table in tables if table.get("id") == key.id)


def _forget_previous(table: Table) -> None:
    for field in ("previous_hash", "previous_until"):
        table.pop(field, None)
