"""Calls written as JSON objects: `{"name": …, "arguments": {…}}`, one or a list."""

import json
from typing import Final

from neuron.text.grammar_spec import BLANK
from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError, expect
from neuron.text.tools.json_reader import copy_string, copy_value, read_string

_NAME_KEYS: Final = ("name", "tool_name")
_ARGUMENT_KEYS: Final = ("arguments", "parameters")
_NESTED_KEY: Final = "function"
"""Some models write calls as they stand in OpenAI's API."""
_OTHER_KEYS: Final = ("type", "id", "tool_call_id")
"""Written by some models, of no use to us."""

LIST_OF_OBJECTS: Final = f'"[" /{BLANK}*/ "{{"'
"""How a list of calls begins, in Lark."""
_KEYS: Final = "|".join([*_NAME_KEYS, *_ARGUMENT_KEYS, _NESTED_KEY, *_OTHER_KEYS])
BARE_OBJECT: Final = f'"{{" /{BLANK}*/ (/"({_KEYS})"/ | /"[^"\\\\]*\\\\/)'
"""How a call without a marker begins, in Lark; a key may be spelt with escapes."""


def read_calls(reader: Reader, sink: CallSink, *, bare: bool = False) -> Waiting[None]:
    """Read one call, or a list of them.

    Args:
        bare: no marker says that it is one, so only a declared tool and known keys do.

    Raises:
        NotACallError: it is none.
    """
    if not (yield from reader.skip("[")):
        yield from read_call(reader, sink, bare=bare)
        return
    while True:
        yield from read_call(reader, sink, bare=bare)
        if not (yield from reader.skip(",")):
            break
    yield from reader.skip("]")


def read_call(reader: Reader, sink: CallSink, *, bare: bool = False) -> Waiting[None]:
    """Read one call, as `read_calls`."""
    call = _Call(reader, sink, bare)
    yield from call.read_object()
    call.finish()


class _Call:
    """One object, whose name and arguments may come in either order."""

    def __init__(self, reader: Reader, sink: CallSink, bare: bool) -> None:
        self._reader = reader
        self._sink = sink
        self._bare = bare
        self._name: str | None = None
        self._arguments: list[str] | None = None
        """Read before the name was known."""
        self.ended = False
        """Both were read. A closing brace that is missing then does no harm."""

    def read_object(self) -> Waiting[None]:
        yield from expect(self._reader, "{")
        if (yield from self._reader.skip("}")):
            return
        while True:
            yield from self._read_member()
            if not (yield from self._reader.skip(",")):
                break
        closed = yield from self._reader.skip("}")
        if not closed and not self.ended:
            raise NotACallError

    def _read_member(self) -> Waiting[None]:
        yield from self._reader.skip_space()
        key = yield from read_string(self._reader)
        yield from expect(self._reader, ":")
        yield from self._reader.skip_space()
        if key in _NAME_KEYS:
            yield from self._read_name()
        elif key in _ARGUMENT_KEYS:
            yield from self._read_arguments()
        elif key == _NESTED_KEY:
            yield from self.read_object()
        elif self._bare and key not in _OTHER_KEYS:
            raise NotACallError
        else:
            yield from copy_value(self._reader, lambda _: None)

    def finish(self) -> None:
        """A tool without arguments may be called without mentioning them."""
        if self._name is None:
            raise NotACallError
        if not self.ended:
            self._pass([])
        self._reader.mark()

    def _read_name(self) -> Waiting[None]:
        if self._name is not None:
            raise NotACallError
        self._name = yield from read_string(self._reader)
        if self._bare:
            if self._name not in self._sink.tools:
                raise NotACallError
            self._sink.sure = True
        if self._arguments is not None:
            self._pass(self._arguments)

    def _read_arguments(self) -> Waiting[None]:
        if self.ended or self._arguments is not None:
            raise NotACallError
        if (yield from self._reader.peek()) == "{" and self._name is not None:
            self._sink.start(self._name)
            yield from copy_value(self._reader, self._sink.arguments)
            self._end()
            return
        self._arguments = []
        yield from read_arguments(self._reader, self._arguments)
        if self._name is not None:
            self._pass(self._arguments)

    def _pass(self, arguments: list[str]) -> None:
        assert self._name is not None
        self._sink.start(self._name)
        self._sink.arguments("".join(arguments) or "{}")
        self._end()

    def _end(self) -> None:
        self._sink.end()
        self.ended = True


def read_arguments(reader: Reader, arguments: list[str]) -> Waiting[None]:
    """Read an object, or what some models write for one: null, or its text in quotes.

    Raises:
        NotACallError: it is something else.
    """
    match (yield from reader.peek()):
        case "{":
            yield from copy_value(reader, arguments.append)
        case '"':
            text: list[str] = []
            yield from copy_string(reader, text.append)
            arguments.append(_unquoted("".join(text)))
        case "n" if (yield from reader.skip("null")):
            pass
        case _:
            raise NotACallError


def _unquoted(text: str) -> str:
    """The object whose JSON is the contents of a JSON string."""
    inner = json.loads(text)
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError) as error:
        raise NotACallError from error
    if not isinstance(value, dict):
        raise NotACallError
    return str(inner)
