"""The input of a custom tool, out of its function's arguments as they are generated."""

import re

import orjson

from services.gateway.dialects.responses.tools import INPUT

_OPENING = re.compile(r'\s*\{\s*"' + INPUT + r'"\s*:\s*"')
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_BEGUN = re.compile(r"(?:\\(?:u[0-9a-fA-F]{0,3})?)?")
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_SURROGATE = range(0xD800, 0xE000)
_HIGH = range(0xD800, 0xDC00)
_LOW = range(0xDC00, 0xE000)
_UNKNOWN = "\ufffd"


class InputReader:
    """Reads `{"input": "…"}` in pieces, and tells of the text what is certain.

    Arguments that are of another form are told as they are, at the end.
    """

    def __init__(self) -> None:
        self._told: list[str] = []
        self._unread = ""
        """All of it until the text begins, then what is not decoded yet."""
        self._inside = False
        self._at = 0
        self._closed = False

    @property
    def text(self) -> str:
        """What was told so far."""
        return "".join(self._told)

    @property
    def over(self) -> bool:
        """Whether all of the text is there; of another form there may be any text."""
        return self._closed if self._inside else self._unread != ""

    def feed(self, arguments: str) -> str:
        """More of the text, which may be none."""
        self._unread += arguments
        if not self._inside and (opening := _OPENING.match(self._unread)):
            self._inside = True
            self._unread = self._unread[opening.end() :]
        return self._tell(self._decoded()) if self._inside else ""

    def finish(self) -> str:
        """What is left to be told once there are no more arguments."""
        return "" if self._inside else self._tell(_input_of(self._unread))

    def _tell(self, text: str) -> str:
        self._told.append(text)
        return text

    def _decoded(self) -> str:
        """As much as is certain, which is taken from what is unread."""
        pieces, self._at = [], 0
        while not self._closed and (piece := self._next()) is not None:
            pieces.append(piece)
        self._unread = self._unread[self._at :]
        return "".join(pieces)

    def _next(self) -> str | None:
        """The next piece; None where it is not there yet, or the text is over."""
        if plain := _PLAIN.match(self._unread, self._at):
            self._at = plain.end()
            return plain[0]
        if self._unread.startswith('"', self._at):
            self._closed = True
            return None
        escape = _ESCAPE.match(self._unread, self._at)
        if escape is None:
            return None
        if letter := escape[2]:
            self._at = escape.end()
            return _LETTERS.get(letter, letter)
        return self._character(int(escape[1], 16), escape.end())

    def _character(self, code: int, end: int) -> str | None:
        """One given by its number, of which the rarer ones take two escapes."""
        if code not in _SURROGATE:
            self._at = end
            return chr(code)
        if code in _HIGH and _BEGUN.fullmatch(self._unread, end):
            return None
        low = _ESCAPE.match(self._unread, end) if code in _HIGH else None
        if low is None or not low[1] or int(low[1], 16) not in _LOW:
            self._at = end
            return _UNKNOWN
        self._at = low.end()
        return chr(0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00)


def _input_of(arguments: str) -> str:
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = value.get(INPUT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
