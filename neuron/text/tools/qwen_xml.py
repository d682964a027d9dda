"""Qwen's coding models: tags for the function and for every parameter.

<tool_call>
<function=name>
<parameter=key>
value
</parameter>
</function>
</tool_call>
"""

from collections.abc import Mapping, Sequence

from neuron.text.reader import Reader, Waiting
from neuron.text.tools.calls import CallSink
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.lark import CallRules, Lark, listed
from neuron.text.tools.spec import ToolSpec
from neuron.text.tools.tagged import END, START, read_tagged
from neuron.text.tools.xml_function import FUNCTION, PARAMETER
from neuron.text.tools.xml_grammar import xml_call


class QwenXml(ToolFormat):
    name = "qwen_xml"
    markers = (START, FUNCTION)
    """Models that leave the outer tag out write the inner one all the same."""
    tokens = (END,)

    def in_template(self, template: str) -> str | None:
        both = FUNCTION in template and PARAMETER in template
        return f"{FUNCTION} and {PARAMETER}" if both else None

    def in_vocabulary(self, tokens: Mapping[str, int]) -> str | None:
        return None  # The tokens are those of `Hermes`, which is far more common.

    def read(self, reader: Reader, sink: CallSink) -> Waiting[None]:
        yield from read_tagged(reader, sink)

    def grammar(
        self, lark: Lark, tools: Sequence[ToolSpec], parallel: bool
    ) -> CallRules:
        call = lark.either([xml_call(lark, tool) for tool in tools])
        return CallRules((START,), listed(call, parallel, lark.text("\n", START)))
