"""Python literals as a model writes them, passed on as JSON.

JSON's own `true`, `false` and `null` are understood too.
"""

import json
import re
from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import NotACallError
from neuron.text.tools.json_reader import Out

_MAX_DEPTH: Final = 100
_PLAIN: Final = re.compile(r"[^'\"\\\n]+")
_WORD: Final = re.compile(r"[-+.\w]+")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS: Final = {
    "True": "true", "False": "false", "None": "null",
    "true": "true", "false": "false", "null": "null",
}  # fmt: skip
_ESCAPES: Final = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a",
    "0": "\0", "\n": "", "\\": "\\", "'": "'", '"': '"', "/": "/",
}  # fmt: skip
"""Python's, and JSON's `\\/`."""
_HEX_DIGITS: Final = {"x": 2, "u": 4, "U": 8}
_CLOSING: Final = {"[": "]", "(": ")", "{": "}"}


def copy_literal(reader: Reader, out: Out, depth: int = 0) -> Waiting[None]:
    """Read a literal and pass it on as JSON, as far as it is valid.

    Raises:
        NotACallError: it is none, or one that JSON has no value for.
    """
    yield from reader.skip_space()
    first = yield from reader.peek()
    if first and first in "'\"":
        yield from _copy_string(reader, out)
    elif first in _CLOSING:
        if depth == _MAX_DEPTH:
            raise NotACallError
        yield from _copy_container(reader, out, depth + 1)
    else:
        yield from _copy_word(reader, out)


def to_json(text: str) -> str | None:
    """A whole literal as JSON; None where `text` is none."""
    reader = Reader()
    reader.push(text)
    reader.close()
    parts: list[str] = []

    def whole() -> Waiting[bool]:
        yield from copy_literal(reader, parts.append)
        yield from reader.skip_space()
        return (yield from reader.ended())

    try:
        next(whole())
    except StopIteration as stop:
        return "".join(parts) if stop.value else None
    except NotACallError:
        pass
    return None


def _copy_word(reader: Reader, out: Out) -> Waiting[None]:
    word = ""
    while True:
        word += reader.run(_WORD)
        if not _WORD.match((yield from reader.peek())):
            break
    if word in _WORDS:
        out(_WORDS[word])
    elif _NUMBER.fullmatch(word):
        out(word)
    else:
        out(_number(word))


def _number(word: str) -> str:
    """Numbers that Python has another spelling for: `.5`, `1.`, `1_000`, `+1`."""
    try:
        value = float(word)
        if re.fullmatch(r"[-+]?[0-9_]+", word):
            return str(int(word))
        return json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise NotACallError from error


def _copy_container(reader: Reader, out: Out, depth: int) -> Waiting[None]:
    opening = reader.take(1)
    closing = _CLOSING[opening]
    out("{" if opening == "{" else "[")
    count = 0
    while not (yield from reader.skip(closing)):
        if count:
            if not (yield from reader.skip(",")):
                raise NotACallError
            if (yield from reader.skip(closing)):
                break
            out(", ")
        count += 1
        if opening == "{":
            yield from reader.skip_space()
            yield from _copy_string(reader, out)
            if not (yield from reader.skip(":")):
                raise NotACallError
            out(": ")
        yield from copy_literal(reader, out, depth)
    out("}" if opening == "{" else "]")


def _copy_string(reader: Reader, out: Out) -> Waiting[None]:
    quote = yield from reader.peek()
    if not quote or quote not in "'\"":
        raise NotACallError
    if (yield from reader.sees(quote * 3)):
        quote *= 3
    reader.take(len(quote))
    out('"')
    while not (yield from reader.sees(quote)):
        if run := reader.run(_PLAIN):
            out(_escaped(run))
            continue
        first = yield from reader.peek()
        if first == "\\":
            yield from _copy_escape(reader, out)
        elif first:
            out(_escaped(reader.take(1)))
        else:
            raise NotACallError
    reader.take(len(quote))
    out('"')


def _copy_escape(reader: Reader, out: Out) -> Waiting[None]:
    kind = yield from reader.peek(1)
    if kind in _ESCAPES:
        reader.take(2)
        out(_escaped(_ESCAPES[kind]))
    elif kind in _HEX_DIGITS:
        code = yield from _code(reader, _HEX_DIGITS[kind])
        # Escapes of surrogates stay escapes: a pair of them is one character in JSON.
        out(f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else _escaped(chr(code)))
    elif kind:
        out(_escaped(reader.take(2)))  # As Python: what is no escape is itself.
    else:
        raise NotACallError


def _code(reader: Reader, digits: int) -> Waiting[int]:
    text = ""
    for offset in range(2, 2 + digits):
        text += yield from reader.peek(offset)
    if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
        raise NotACallError
    code = int(text, 16)
    if code > 0x10FFFF:
        raise NotACallError
    reader.take(2 + digits)
    return code


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
