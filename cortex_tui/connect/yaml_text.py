"""YAML, edited in place: an edit touches the lines of what it changes and no others.

Strings are written in double quotes, which YAML 1.1 and 1.2 read alike.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from cortex_tui.connect.merge import Edit, Key, dotted

_COLON_OF_NOTHING: Final = re.compile(r":(?=\s*(?:#[^\n]*(?:\n\s*|\Z))*\Z)")
"""An empty value is said to stand after the comments that follow its name."""


class YamlError(ValueError):
    """Not YAML, or not of a form that can be edited."""


def loads(text: str) -> Any:
    """The value; None where there is nothing but comments.

    Raises:
        YamlError: it is no YAML, or more than one document.
    """
    return _read(text, YAML(typ="safe", pure=True).load)


def _read(text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error


def dumps(value: Any) -> str:
    """Block style, for a mapping or a list."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for name, item in value.items() for line in _entry(name, item)]
    if isinstance(value, list) and value:
        return [
            ("- " if number == 0 else "  ") + line
            for item in value
            for number, line in enumerate(_lines(item))
        ]
    return [json.dumps(value, ensure_ascii=False)]


def _entry(name: str, value: Any) -> list[str]:
    lines = _lines(value)
    if isinstance(value, Mapping | list) and value:
        return [f"{name}:", *(f"  {line}" for line in lines)]
    return [f"{name}: {lines[0]}"]


def edit(text: str, change: Edit) -> str:
    """`text` with one change made.

    Raises:
        YamlError: it has no such place, or one that cannot be edited.
    """
    root = _read(text, YAML(typ="safe", pure=True).compose)
    if root is None:
        return _line_ended(text) + dumps(change.value)
    node = root
    for key in change.path if change.append else change.path[:-1]:
        node = _part(node, key, change)
    if change.append:
        return _append(text, node, change)
    old = _part(node, change.path[-1], change, required=False) if change.path else None
    if old is not None:
        return _replace(text, old, change)
    return _add(text, node, change)


def _part(node: Any, key: Key, change: Edit, *, required: bool = True) -> Any:
    if isinstance(node, SequenceNode):
        return node.value[int(key)]
    if isinstance(node, MappingNode):
        for name, value in node.value:
            if name.value == str(key):
                return value
    if required:
        raise YamlError(f"`{dotted(change.path)}` has no place")
    return None


def _replace(text: str, node: Node, change: Edit) -> str:
    start, end = node.start_mark.index, _end(node)
    if start == end and (colon := _COLON_OF_NOTHING.search(text, 0, end)):
        start = end = colon.end()
    end = len(text[:end].rstrip())
    value = json.dumps(change.value, ensure_ascii=False)
    # After a colon, and deeper than the name that a block's dashes may stand below.
    space = " " if text[start - 1 : start] == ":" or _is_block(node) else ""
    return text[:start] + space + value + text[end:]


def _add(text: str, node: Any, change: Edit) -> str:
    name = str(change.path[-1])
    if not isinstance(node, MappingNode):
        raise YamlError(f"`{dotted(change.path)}` has no place")
    if node.flow_style:
        value = json.dumps(change.value, ensure_ascii=False)
        return _add_in_flow(text, node, f"{name}: {value}")
    first, (_, last) = node.value[0][0], node.value[-1]
    return _add_lines(text, last, first.start_mark.column, _entry(name, change.value))


def _append(text: str, node: Any, change: Edit) -> str:
    if not isinstance(node, SequenceNode):
        raise YamlError(f"`{dotted(change.path)}` should be a list")
    if node.flow_style:
        value = json.dumps(change.value, ensure_ascii=False)
        return _add_in_flow(text, node, value)
    column = _column_of_dash(text, node.value[-1].start_mark.index)
    return _add_lines(text, node.value[-1], column, _lines([change.value]))


def _add_in_flow(text: str, node: Any, new: str) -> str:
    closing = node.end_mark.index - 1
    before = text[:closing].rstrip()
    comma = "" if not node.value or before.endswith(",") else ", "
    return before + comma + new + text[closing:]


def _add_lines(text: str, after: Any, column: int, lines: list[str]) -> str:
    """New lines below the line on which `after` ends."""
    end = len(text[: _end(after)].rstrip())
    line_end = text.find("\n", end)
    at = len(text) if line_end < 0 else line_end + 1
    new = "".join(f"{' ' * column}{line}{_newline(text)}" for line in lines)
    return _line_ended(text[:at]) + new + text[at:]


def _is_block(node: Any) -> bool:
    return isinstance(node, MappingNode | SequenceNode) and not node.flow_style


def _end(node: Any) -> int:
    """Where its last scalar ends: a block itself ends where the next one begins."""
    if _is_block(node):
        last = node.value[-1]
        return _end(last[1] if isinstance(node, MappingNode) else last)
    return int(node.end_mark.index)


def _column_of_dash(text: str, at: int) -> int:
    dash = text.rfind("-", 0, at)
    return dash - (text.rfind("\n", 0, dash) + 1)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _line_ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + _newline(text)
