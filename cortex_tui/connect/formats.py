"""The formats of clients' settings files, and a merge that loses nothing.

Comments, order, spacing and settings that are not ours stay. Where that is impossible
the merge is refused; that it was possible is checked by reading the result again.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from cortex_tui.connect import jsonc, yaml_text
from cortex_tui.connect.merge import Edit, Path, apply, edits, plain

_NOT_EDITABLE: Final = "it is written in a way that cannot be added to"


class FormatError(ValueError):
    """The text cannot be merged; the message says why."""


@dataclass(frozen=True, slots=True)
class Format:
    loads: Callable[[str], Any]
    dumps: Callable[[Any], str]
    edit: Callable[[str, Edit], str]


def _edit_toml(text: str, change: Edit) -> str:
    if isinstance(change.value, Mapping) and not change.append:
        # At the end: a comment above whatever followed would seem to be about it.
        with suppress(tomllib.TOMLDecodeError):
            return _with_table(text, change.path, change.value)
    document = tomlkit.parse(text)
    apply(document, [change])
    return tomlkit.dumps(document)


def _with_table(text: str, path: Path, table: Mapping[str, Any]) -> str:
    """
    Raises:
        tomllib.TOMLDecodeError: it cannot be written as a table of its own there.
    """
    for key in reversed(path):
        table = {str(key): table}
    separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    newline = "\r\n" if "\r\n" in text else "\n"
    text += (separator + tomlkit.dumps(table)).replace("\n", newline)
    tomllib.loads(text)
    return text


JSON = Format(jsonc.loads, lambda value: jsonc.dumps(value) + "\n", jsonc.edit)
TOML = Format(tomllib.loads, tomlkit.dumps, _edit_toml)
YAML = Format(yaml_text.loads, yaml_text.dumps, yaml_text.edit)


@dataclass(frozen=True, slots=True)
class Merged:
    text: str
    changes: Sequence[Edit]


def merge(format_: Format, text: str, wanted: Any) -> Merged:
    """`text` with the wanted settings in it, and what had to be changed for that.

    Raises:
        FormatError: it is not of this format, or what is there is in the way.
    """
    try:
        existing = format_.loads(text)
        changes = edits(existing, wanted)
    except ValueError as error:
        raise FormatError(str(error)) from error
    edited = text
    try:
        for change in changes:
            edited = format_.edit(edited, change)
        result = format_.loads(edited)
    except (ValueError, TOMLKitError) as error:
        raise FormatError(_NOT_EDITABLE) from error
    if result != apply(_unshared(existing), changes):
        raise FormatError(_NOT_EDITABLE)
    return Merged(edited, changes)


def fresh(format_: Format, wanted: Any) -> str:
    """The text of a new file."""
    return format_.dumps(plain(wanted))


def _unshared(value: Any) -> Any:
    """A copy in which no part is in two places, as YAML's aliases would have it."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value
