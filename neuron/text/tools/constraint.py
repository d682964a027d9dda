"""The grammar that makes a model call a tool, or holds the calls that it makes."""

from collections.abc import Sequence
from dataclasses import replace

from neuron.text.grammar_spec import FreeText, GrammarSpec
from neuron.text.output import OutputSyntax
from neuron.text.tools.format import ToolFormat
from neuron.text.tools.lark import CallRules, Lark, arguments_schema, quoted
from neuron.text.tools.spec import NamedTool, ToolChoice, ToolSpec


def constraint_for(
    syntax: OutputSyntax,
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    parallel: bool = True,
) -> GrammarSpec | None:
    """What the reply must look like, written the way the model writes its calls.

    A thought before the calls is the caller's to allow; see `GrammarSpec`. The schemas
    of strict tools are followed in full, or refused when the grammar is compiled; those
    of others as far as grammars can where a call is required, and not at all where
    none is.

    Args:
        choice: `required` and a named tool are enforced. With `auto` a model may write
            what it likes, but what is a call must be one of these tools, if any of
            them is strict.
        parallel: whether there may be more than one call.

    Raises:
        ValueError: there is no such tool, or the format cannot express one; the message
            begins with the field.
    """
    is_free = choice == "auto"
    if choice == "none" or (is_free and not any(tool.strict for tool in tools)):
        return None
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.name == choice.name]
        if not tools:
            raise ValueError(f"tool_choice: there is no tool {choice.name!r} in tools")
        parallel = False
    if not tools or syntax.tools is None:
        raise ValueError("tool_choice: there are no tools to choose from")
    parts = tuple(
        (f"{tool.place} of the strict tool {tool.name!r}", arguments_schema(tool))
        for tool in tools
        if tool.strict
    )
    lark = Lark(syntax.tokens)
    if not is_free:
        calls = syntax.tools.grammar(lark, tools, parallel)
        opening = "" if calls.bare else lark.text(calls.openings[0])
        start = f"{opening} ({calls.rest})"
        return GrammarSpec("lark", lark.source(start), lenient=True, parts=parts)
    tools = [tool if tool.strict else replace(tool, parameters={}) for tool in tools]
    calls = syntax.tools.grammar(lark, tools, parallel)
    return GrammarSpec(
        "lark",
        lark.source(calls.rest),
        lenient=True,
        free=_free_text(syntax, syntax.tools, tools, calls),
        parts=parts,
    )


def _free_text(
    syntax: OutputSyntax,
    format_: ToolFormat,
    tools: Sequence[ToolSpec],
    calls: CallRules,
) -> FreeText:
    """Text that holds nothing that is read as a call, or as a thought."""
    never = [
        " ".join(filter(None, (quoted(marker), format_.followed.get(marker))))
        for marker in format_.markers
    ]
    first = [*format_.bare_calls(tools)]
    if syntax.reasoning is not None:
        first.append(quoted(syntax.reasoning.start))
    return FreeText(
        openings=calls.openings,
        never=tuple(never),
        never_first=tuple(first),
        bare=calls.bare,
        markers=tuple(syntax.tokens.values()),
    )
