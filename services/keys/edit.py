"""Edits of keys.toml that leave its comments, order and spacing alone. Blocking."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Table

from neuron.protocol.announce import write_atomically
from neuron.protocol.config_file import ConfigError
from services.keys import secret
from services.keys.file import MODE, KeySection, read_keys

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
        entry = tomlkit.table()
        for field in KeySection.model_fields:
            if field in values:
                entry[field] = values[field]
        _tables(document, path).append(entry)
    return key, shown


def revoke(path: Path, who: str) -> KeySection:
    """Refuse this key from now on.

    Raises:
        KeyNameError: there is no such key, or it is revoked already.
        ConfigError: the file cannot be used, or written.
    """
    with _editing(path) as document:
        key = find(read_keys(path).entries, who)
        table = _table_of(document, path, key)
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
        table = _table_of(document, path, key)
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


@contextmanager
def _editing(path: Path) -> Iterator[tomlkit.TOMLDocument]:
    """The file as it is, written back on the way out; one editor at a time."""
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(target.parent):
            text = target.read_text(encoding="utf-8") if target.exists() else _HEAD
            document = tomlkit.parse(text)
            yield document
            mode = target.stat().st_mode & _NOT_OTHERS if target.exists() else MODE
            write_atomically(target, tomlkit.dumps(document), mode)
    except (OSError, UnicodeDecodeError, TOMLKitError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _tables(document: tomlkit.TOMLDocument, path: Path) -> AoT:
    tables = document.get("keys")
    if tables is None:
        document["keys"] = tables = tomlkit.aot()
    if not isinstance(tables, AoT):
        raise ConfigError(f"{path}: `keys` should be written as [[keys]] tables")
    return tables


def _table_of(document: tomlkit.TOMLDocument, path: Path, key: KeySection) -> Table:
    tables: list[Table] = [t for t in _tables(document, path) if t.get("id") == key.id]
    return tables[0]


def _forget_previous(table: Table) -> None:
    for field in ("previous_hash", "previous_until"):
        table.pop(field, None)
