"""What is to be changed in settings that exist, so that they say what is wanted.

Wanted settings are mappings of what shall be so; what they do not name stays as it is.
"""

from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, Final

Key = str | int
Path = tuple[Key, ...]
_ABSENT: Final = object()


class MergeError(ValueError):
    """The settings cannot be merged; the message names the one in the way."""


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """A value for where there is none yet; whatever is there stays."""

    value: Any


@dataclass(frozen=True, slots=True)
class Entries:
    """Items of a list of mappings, each known by its value of `by`; others stay."""

    by: str
    items: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """One change: `path` is set to `value`, or `value` appended to the list there."""

    path: Path
    value: Any
    append: bool = False
    replaces: bool = False

    def __str__(self) -> str:
        added = "an entry added" if self.append else "added"
        return f"{dotted(self.path)}: {'changed' if self.replaces else added}"


def dotted(path: Path) -> str:
    return ".".join(map(str, path)) or "the whole"


def plain(wanted: Any) -> Any:
    """The wanted settings alone, as where there are none yet."""
    match wanted:
        case IfAbsent(value):
            return plain(value)
        case Entries(_, items):
            return [plain(item) for item in items]
        case Mapping():
            return {key: plain(value) for key, value in wanted.items()}
        case _:
            return wanted


def edits(existing: Any, wanted: Any, path: Path = ()) -> list[Edit]:
    """The edits that make `existing` say what is wanted; none where it does.

    Raises:
        MergeError: a list or a mapping is wanted where something else is.
    """
    if existing is _ABSENT or (existing is None and not isinstance(wanted, IfAbsent)):
        return [Edit(path, plain(wanted))]
    match wanted:
        case IfAbsent():
            return []
        case Entries():
            return _edits_of_entries(existing, wanted, path)
        case Mapping():
            if not isinstance(existing, Mapping):
                raise MergeError(f"`{dotted(path)}` should be a table of settings")
            return [
                edit
                for key, value in wanted.items()
                for edit in edits(existing.get(key, _ABSENT), value, (*path, key))
            ]
        case _:
            # To Python, 1 is True; to no client.
            same = existing == wanted and type(existing) is type(wanted)
            return [] if same else [Edit(path, wanted, replaces=True)]


def _edits_of_entries(existing: Any, wanted: Entries, path: Path) -> list[Edit]:
    if not isinstance(existing, Sequence) or isinstance(existing, str):
        raise MergeError(f"`{dotted(path)}` should be a list")
    found: list[Edit] = []
    for item in wanted.items:
        name = item[wanted.by]
        for index, entry in enumerate(existing):
            if isinstance(entry, Mapping) and entry.get(wanted.by) == name:
                found += edits(entry, item, (*path, index))
                break
        else:
            found.append(Edit(path, plain(item), append=True))
    return found


def apply(settings: Any, changes: Sequence[Edit]) -> Any:
    """`settings`, changed in place; what is returned where the whole was set."""
    for change in changes:
        place = settings
        for key in change.path if change.append else change.path[:-1]:
            place = place[key]
        if change.append:
            assert isinstance(place, MutableSequence)
            place.append(change.value)
        elif not change.path:
            settings = change.value
        else:
            assert isinstance(place, MutableMapping | MutableSequence)
            place[change.path[-1]] = change.value  # type: ignore[index]
    return settings
