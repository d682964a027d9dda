"""The grammar that makes a model call a tool."""

from collections.abc import Sequence

from neuron.text.grammar_spec import GrammarSpec
from neuron.text.output import OutputSyntax
from neuron.text.tools.lark import Lark
from neuron.text.tools.spec import NamedTool, ToolChoice, ToolSpec


def constraint_for(
    syntax: OutputSyntax,
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    parallel: bool = True,
) -> GrammarSpec | None:
    """What the reply must look like, written the way the model writes its calls.

    A thought before the calls is the caller's to allow; see `GrammarSpec`. Schemas are
    followed as far as grammars can.

    Args:
        choice: `required` and a named tool are enforced; anything else is not.
        parallel: whether there may be more than one call of the required ones.

    Raises:
        ValueError: there is no such tool, or the format cannot express one.
    """
    if choice in ("none", "auto"):
        return None
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.name == choice.name]
        if not tools:
            raise ValueError(f"tool_choice: there is no tool {choice.name!r} in tools")
        parallel = False
    if not tools or syntax.tools is None:
        raise ValueError("tool_choice: there are no tools to choose from")
    lark = Lark(syntax.tokens)
    start = syntax.tools.grammar(lark, tools, parallel)
    return GrammarSpec("lark", lark.source(start), lenient=True)
