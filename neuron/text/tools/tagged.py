"""`<tool_call>` and `</tool_call>`, with JSON or with further tags between them.

Qwen's chat models write the one, its coding models the other, and now and then either
writes what is the other's: so both are read, wherever the tags are.
"""

from typing import Final

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.json_calls import read_calls
from neuron.text.tools.xml_function import FUNCTION, read_function

START: Final = "<tool_call>"
END: Final = "</tool_call>"


def read_tagged(reader: Reader, sink: CallSink) -> Waiting[None]:
    """Read what is between the tags; the end tag may be missing.

    Raises:
        NotACallError: it is no call.
    """
    sink.sure = True
    yield from reader.skip(START)
    if (yield from reader.sees(FUNCTION, (yield from reader.after_space()))):
        yield from read_function(reader, sink)
    else:
        yield from read_calls(reader, sink)
    yield from reader.skip(END)
