"""JSON as a model writes it: checked character by character, passed on as written."""

import json
import re
from collections.abc import Callable
from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import NotACallError

Out = Callable[[str], None]

_MAX_DEPTH: Final = 100
"""Deeper values are refused: other JSON parsers, the client's too, have limits."""

_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR: Final = re.compile(r"[-+.\w]+")
_VALID_SCALAR: Final = re.compile(
    r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?"
)
_HEX: Final = frozenset("0123456789abcdefABCDEF")


def copy_value(reader: Reader, out: Out, depth: int = 0) -> Waiting[None]:
    """Read a JSON value and pass its text on as far as it is valid.

    Raises:
        NotACallError: it is no JSON, or the text ends inside it.
    """
    first = yield from reader.peek()
    if first == '"':
        yield from copy_string(reader, out)
    elif first and first in "{[":
        if depth == _MAX_DEPTH:
            raise NotACallError
        yield from _copy_container(reader, out, depth + 1)
    else:
        yield from _copy_scalar(reader, out)


def copy_string(reader: Reader, out: Out) -> Waiting[None]:
    """Read a JSON string. Control characters, which models write although JSON forbids
    it, are passed on escaped, so that the result is valid.

    Raises:
        NotACallError: it is none, or the text ends inside it.
    """
    if (yield from reader.peek()) != '"':
        raise NotACallError
    out(reader.take(1))
    while True:
        if run := reader.run(_PLAIN):
            out(run)
        following = yield from reader.peek()
        if not following:
            raise NotACallError
        if following == '"':
            out(reader.take(1))
            return
        if following == "\\":
            yield from _copy_escape(reader, out)
        elif following < " ":
            out(json.dumps(reader.take(1))[1:-1])


def read_string(reader: Reader) -> Waiting[str]:
    """What a JSON string says; its quotes and escapes undone.

    Raises:
        NotACallError: as above, or half of a surrogate pair makes it no text.
    """
    parts: list[str] = []
    yield from copy_string(reader, parts.append)
    text = str(json.loads("".join(parts)))
    if any("\ud800" <= char < "\ue000" for char in text):
        raise NotACallError
    return text


def _copy_escape(reader: Reader, out: Out) -> Waiting[None]:
    kind = yield from reader.peek(1)
    if kind == "u":
        for offset in range(2, 6):
            if (yield from reader.peek(offset)) not in _HEX:
                raise NotACallError
        out(reader.take(6))
    elif kind and kind in '"\\/bfnrt':
        out(reader.take(2))
    else:
        raise NotACallError


def _copy_scalar(reader: Reader, out: Out) -> Waiting[None]:
    text = ""
    while True:
        text += reader.run(_SCALAR)
        following = yield from reader.peek()
        if not _SCALAR.match(following):
            break
    if not following or not _VALID_SCALAR.fullmatch(text):
        raise NotACallError  # At the end of the text, more digits may be missing.
    out(text)


def _copy_container(reader: Reader, out: Out, depth: int) -> Waiting[None]:
    opening = reader.take(1)
    closing = "}" if opening == "{" else "]"
    out(opening)
    yield from _copy_space(reader, out)
    if (yield from reader.peek()) == closing:
        out(reader.take(1))
        return
    while True:
        if opening == "{":
            yield from copy_string(reader, out)
            yield from _copy_space(reader, out)
            if (yield from reader.peek()) != ":":
                raise NotACallError
            out(reader.take(1))
            yield from _copy_space(reader, out)
        yield from copy_value(reader, out, depth)
        yield from _copy_space(reader, out)
        following = yield from reader.peek()
        if following not in (",", closing):
            raise NotACallError
        out(reader.take(1))
        if following == closing:
            return
        yield from _copy_space(reader, out)


def _copy_space(reader: Reader, out: Out) -> Waiting[None]:
    while (space := (yield from reader.peek())) and space in " \t\r\n":
        out(reader.take(1))
