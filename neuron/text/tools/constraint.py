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
    *,
    in_reasoning: bool = False,
) -> GrammarSpec | None:
    """What the reply must look like, written the way the model writes its calls.

    A model that thinks may do so before. Schemas are followed as far as grammars can.

    Args:
        choice: `required` and a named tool are enforced; anything else is not.
        parallel: whether there may be more than one call of the required ones.
        in_reasoning: the prompt ends inside a thought; see `opens_reasoning`.

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
    calls = syntax.tools.grammar(lark, tools, parallel)
    thought = syntax.reasoning
    if thought is not None and not in_reasoning:
        calls = f"{lark.thought(thought.start, thought.end)}? {lark.rule(calls)}"
    after = thought.end if thought is not None and in_reasoning else None
    return GrammarSpec("lark", lark.source(calls), after=after, lenient=True)
