"""JSON with comments and trailing commas: read, and edited in place.

An edit touches the characters of what it changes and no others, so that comments, order
and spacing of the rest stay as their author left them.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cortex_tui.connect.merge import Edit, dotted

_WHITESPACE: Final = " \t\r\n"


class JsoncError(ValueError):
    """Not JSON, with the line; the message has no file name."""


@dataclass(slots=True)
class Node:
    """A value and where it stands: `text[start:end]`."""

    start: int
    end: int
    value: Any
    parts: "dict[str, Node] | list[Node] | None" = None
    """Of an object or an array."""
    comma: int | None = None
    """Where the comma after its last part is, if it has one."""

    def last(self) -> "Node | None":
        """The part that is last in the text."""
        parts = self.parts.values() if isinstance(self.parts, dict) else self.parts
        return max(parts or (), key=lambda node: node.end, default=None)

    def part(self, key: str | int) -> "Node | None":
        if isinstance(self.parts, dict):
            return self.parts.get(str(key))
        return self.parts[int(key)] if self.parts is not None else None


def loads(text: str) -> Any:
    """The value; None where there is nothing but comments.

    Raises:
        JsoncError: it is something else.
    """
    root = parse(text)
    return None if root is None else root.value


def parse(text: str) -> Node | None:
    """The value with the places of its parts; None where there is none.

    Raises:
        JsoncError: it is something else.
    """
    reader = _Reader(text)
    if reader.skip(1 if text.startswith("\ufeff") else 0) == len(text):
        return None
    node = reader.value(reader.skip(1 if text.startswith("\ufeff") else 0))
    if reader.skip(node.end) != len(text):
        reader.fail(reader.skip(node.end), "something after the end")
    return node


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._scalar = json.JSONDecoder(parse_constant=self._constant)

    def fail(self, at: int, what: str) -> NoReturn:
        raise JsoncError(f"line {self._text.count(chr(10), 0, at) + 1}: {what}")

    def _constant(self, name: str) -> NoReturn:
        raise JsoncError(f"{name} is no JSON")

    def skip(self, at: int) -> int:
        """Past whitespace and comments."""
        while at < len(self._text):
            if self._text[at] in _WHITESPACE:
                at += 1
            elif self._text.startswith("//", at):
                end = self._text.find("\n", at)
                at = len(self._text) if end < 0 else end
            elif self._text.startswith("/*", at):
                end = self._text.find("*/", at + 2)
                if end < 0:
                    self.fail(at, "a comment without its end")
                at = end + 2
            else:
                break
        return at

    def value(self, at: int) -> Node:
        opening = self._text[at : at + 1]
        if opening == "{":
            return self._object(at)
        if opening == "[":
            return self._array(at)
        try:
            value, end = self._scalar.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            self.fail(error.pos, error.msg.lower())
        return Node(at, end, value)

    def _object(self, start: int) -> Node:
        parts: dict[str, Node] = {}
        node = Node(start, start, {}, parts)
        at = self.skip(start + 1)
        while not self._text.startswith("}", at):
            if not self._text.startswith('"', at):
                self.fail(at, "a name in double quotes was expected")
            name = self.value(at)
            at = self.skip(name.end)
            if not self._text.startswith(":", at):
                self.fail(at, "a colon was expected")
            parts[name.value] = self.value(self.skip(at + 1))
            at = self._after(parts[name.value], node, "}")
        node.value = {name: part.value for name, part in parts.items()}
        node.end = at + 1
        return node

    def _array(self, start: int) -> Node:
        parts: list[Node] = []
        node = Node(start, start, [], parts)
        at = self.skip(start + 1)
        while not self._text.startswith("]", at):
            parts.append(self.value(at))
            at = self._after(parts[-1], node, "]")
        node.value = [part.value for part in parts]
        node.end = at + 1
        return node

    def _after(self, part: Node, node: Node, closing: str) -> int:
        """Past the comma after a part, if there is one, to the next one or the end."""
        at = self.skip(part.end)
        node.comma = at if self._text.startswith(",", at) else None
        if node.comma is not None:
            return self.skip(at + 1)
        if not self._text.startswith(closing, at):
            self.fail(at, f"a comma or `{closing}` was expected")
        return at


def edit(text: str, change: Edit) -> str:
    """`text` with one change made.

    Raises:
        JsoncError: the text is not JSON, or has no such place.
    """
    root = parse(text)
    if root is None:
        separator = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{separator}{dumps(change.value)}\n"
    node: Node | None = root
    for key in change.path if change.append else change.path[:-1]:
        node = node.part(key) if node else None
    if node is None:
        raise JsoncError(f"`{dotted(change.path)}` has no place")
    if change.append:
        return _insert(text, node, "", change.value)
    old = node.part(change.path[-1]) if change.path else node
    if old is not None:
        value = _indented(text, old.start, change.value)
        return text[: old.start] + value + text[old.end :]
    name = json.dumps(change.path[-1], ensure_ascii=False) + ": "
    return _insert(text, node, name, change.value)


def dumps(value: Any, indent: str | None = "  ") -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _insert(text: str, node: Node, name: str, value: Any) -> str:
    """A new last part of an object (with its name) or an array."""
    last = node.last()
    if last is None:
        return _insert_first(text, node, name, value)
    newline = _newline(text)
    if "\n" not in text[last.end : node.end]:
        new = name + dumps(value, None)
        if node.comma is None:
            return f"{text[: last.end]}, {new}{text[last.end :]}"
        after = node.comma + 1
        return f"{text[:after]} {new},{text[after:]}"
    indent = _indent_at(text, last.start)
    new = f"{newline}{indent}{name}{_dumps_in(text, value, indent)}"
    if node.comma is not None:
        at = _end_of_line(text, node.comma + 1, node.end)
        return f"{text[:at]}{new},{text[at:]}"
    at = _end_of_line(text, last.end, node.end)
    return f"{text[: last.end]},{text[last.end : at]}{new}{text[at:]}"


def _insert_first(text: str, node: Node, name: str, value: Any) -> str:
    newline, closing = _newline(text), node.end - 1
    outer = _indent_at(text, node.start)
    inner = outer + _unit(text)
    new = f"{newline}{inner}{name}{_dumps_in(text, value, inner)}"
    at = node.start + 1 + len(text[node.start + 1 : closing].rstrip(_WHITESPACE))
    rest = text[at:closing]
    if "\n" not in rest:
        rest = newline + outer
    return text[:at] + new + rest + text[closing:]


def _end_of_line(text: str, at: int, limit: int) -> int:
    """Past the comments that stand after something on its line."""
    while at < limit:
        if text[at] in " \t":
            at += 1
        elif text.startswith("//", at):
            return _line_end(text, at)
        elif text.startswith("/*", at):
            at = text.index("*/", at + 2) + 2
        else:
            break
    return len(text[:at].rstrip(" \t"))


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text[:end].rstrip("\r")) if end >= 0 else len(text)


def _indented(text: str, at: int, value: Any) -> str:
    return _dumps_in(text, value, _indent_at(text, at))


def _dumps_in(text: str, value: Any, indent: str) -> str:
    return dumps(value, _unit(text)).replace("\n", _newline(text) + indent)


def _indent_at(text: str, at: int) -> str:
    """The whitespace that the line of `at` begins with."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str) -> str:
    """One step of indentation: that of the root's last part, if on its own line."""
    root = parse(text)
    last = root.last() if root else None
    return (_indent_at(text, last.start) if last else "") or "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
