"""`<function=name><parameter=key>value</parameter>…</function>`, read as JSON."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError, expect
from neuron.text.tools.coerce import coerce, types_of
from neuron.text.tools.json_reader import Out

FUNCTION: Final = "<function="
FUNCTION_END: Final = "</function>"
PARAMETER: Final = "<parameter="
PARAMETER_END: Final = "</parameter>"
CALL_END: Final = "</tool_call>"

_NAME: Final = re.compile(r"[^<>\n]+")
_PLAIN: Final = re.compile(r"[^\n<]+")


def read_function(reader: Reader, sink: CallSink) -> Waiting[None]:
    """Read one call. Text arguments are passed on as they come, others when complete.

    Raises:
        NotACallError: it is none, or breaks off.
    """
    name = yield from _read_name(reader, FUNCTION)
    offset = yield from reader.after_space()
    if not (yield from reader.sees(PARAMETER, offset)):
        yield from expect(reader, FUNCTION_END)
        sink.start(name)
        sink.arguments("{}")
        sink.end()
        return
    sink.start(name)
    tool = sink.tools.get(name)
    schema = {} if tool is None else tool.parameters
    seen: set[str] = set()
    while not (yield from reader.skip(FUNCTION_END)):
        key = yield from _read_name(reader, PARAMETER)
        if key in seen:
            raise NotACallError
        lead = ", " if seen else "{"
        seen.add(key)
        prefix = f"{lead}{json.dumps(key, ensure_ascii=False)}: "
        yield from _read_argument(reader, sink, prefix, _types(schema, key))
    sink.arguments("}")
    sink.end()


def _types(schema: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """What a parameter may be; one that is not declared is a string."""
    properties = schema.get("properties", {})
    return types_of(properties.get(key), schema) or ("string",)


def _read_name(reader: Reader, tag: str) -> Waiting[str]:
    yield from expect(reader, tag)
    name = ""
    while run := reader.run(_NAME) or (yield from _more(reader)):
        name += run
    yield from expect(reader, ">")
    if not name:
        raise NotACallError
    return name


def _more(reader: Reader) -> Waiting[str]:
    """Waits for text; what of it is still part of a name."""
    yield from reader.peek()
    return reader.run(_NAME)


def _read_argument(
    reader: Reader, sink: CallSink, prefix: str, types: tuple[str, ...]
) -> Waiting[None]:
    if types == ("string",):
        sink.arguments(f'{prefix}"')
        yield from _read_value(
            reader,
            lambda text: sink.arguments(json.dumps(text, ensure_ascii=False)[1:-1]),
        )
        sink.arguments('"')
        return
    parts: list[str] = []
    yield from _read_value(reader, parts.append)
    sink.arguments(prefix + coerce("".join(parts), types))


def _read_value(reader: Reader, out: Out) -> Waiting[None]:
    """Pass on the text up to the end tag, without the newlines next to the tags."""
    if (yield from reader.peek()) == "\n":
        reader.take(1)
    while True:
        if run := reader.run(_PLAIN):
            out(run)
            continue
        if not (yield from reader.peek()):
            raise NotACallError
        if (yield from _value_ends(reader)):
            return
        if (following := (yield from reader.peek())) and following in "\n<":
            out(reader.take(1))


def _value_ends(reader: Reader) -> Waiting[bool]:
    """Read the end of a value, if it is here.

    A tag that is not followed by what must follow it is part of the value, which may
    well be about tags. Models that forget the parameter's end write the function's.
    """
    newline = 1 if (yield from reader.peek()) == "\n" else 0
    if (yield from reader.sees(PARAMETER_END, newline)):
        end = newline + len(PARAMETER_END)
        after = yield from reader.after_space(end)
        for tag in (PARAMETER, FUNCTION_END):
            if (yield from reader.sees(tag, after)):
                reader.take(end)
                return True
        return False
    if (yield from reader.sees(FUNCTION_END, newline)):
        after = yield from reader.after_space(newline + len(FUNCTION_END))
        if (yield from reader.sees(CALL_END, after)):
            reader.take(newline)
            return True
    return False
