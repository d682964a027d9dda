"""`[f(a=1, b="x"), g()]`, read as JSON."""

import json

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink, NotACallError, expect, read_name
from neuron.text.tools.python_literal import copy_literal


def read_python_calls(reader: Reader, sink: CallSink, *, bare: bool) -> Waiting[None]:
    """Read a list of calls.

    Args:
        bare: no marker says that it is one, so only declared tools do.

    Raises:
        NotACallError: it is none.
    """
    yield from expect(reader, "[")
    while True:
        yield from _read_call(reader, sink, bare)
        if not (yield from reader.skip(",")):
            break
    yield from reader.skip("]")


def _read_call(reader: Reader, sink: CallSink, bare: bool) -> Waiting[None]:
    name = yield from read_name(reader)
    yield from expect(reader, "(")
    if bare:
        if name not in sink.tools:
            raise NotACallError
        sink.sure = True
    sink.start(name)
    seen: set[str] = set()
    while not (yield from reader.skip(")")):
        if seen:
            yield from expect(reader, ",")
            if (yield from reader.skip(")")):
                break
        key = yield from read_name(reader)
        yield from expect(reader, "=")
        if key in seen:
            raise NotACallError
        lead = ", " if seen else "{"
        seen.add(key)
        sink.arguments(f"{lead}{json.dumps(key, ensure_ascii=False)}: ")
        yield from copy_literal(reader, sink.arguments)
    sink.arguments("}" if seen else "{}")
    sink.end()
