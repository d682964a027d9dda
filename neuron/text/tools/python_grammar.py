"""Grammar of a call as Python writes it: `f(a=1, b="x")`."""

from neuron.text.tools.calls import WORD
from neuron.text.tools.lark import Lark, listed
from neuron.text.tools.named_arguments import check_named, property_schema
from neuron.text.tools.spec import ToolSpec

_NAME: str = r"/[A-Za-z_][A-Za-z0-9_]*/"
_NUMBER: str = r"/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/"
_WORD: str = "/True|False|None|true|false|null/"
_ESCAPE: str = (
    r"\\([ntrbfv\\'\"\/]|x[0-9a-fA-F]{2}|u([0-9a-ce-fA-CE-F][0-9a-fA-F]|[dD][0-7])"
    r"[0-9a-fA-F]{2})"
)
_STRING: str = rf"/'([^'\\\n]|{_ESCAPE})*'|\"([^\"\\\n]|{_ESCAPE})*\"/"
_SEPARATOR: str = r"/,[ \n]{0,2}/"


def python_call(lark: Lark, tool: ToolSpec) -> str:
    """The body of a rule: arguments by name, the required ones first.

    Their values are JSON where they follow a schema, which the reader takes for
    Python's where the two differ.

    Raises:
        ValueError: it cannot be called so.
    """
    opening = lark.text(f"{tool.name}(")
    if not tool.parameters:
        argument = lark.rule(f'{_NAME} "=" {_value(lark)}')
        return f'{opening} ({listed(argument, True, _SEPARATOR)})? ")"'
    check_named(tool)
    required: list[str] = []
    optional: list[str] = []
    for key in tool.properties:
        argument = _argument(lark, tool, key)
        in_required = key in tool.parameters.get("required", [])
        (required if in_required else optional).append(argument)
    more = [f'(", " {rule})?' for rule in optional]
    if required:
        arguments = ' ", " '.join(required) + " " + " ".join(more)
    else:
        chains = [" ".join([rule, *more[i + 1 :]]) for i, rule in enumerate(optional)]
        arguments = f"({' | '.join(chains)})?" if chains else ""
    return f'{opening} {arguments} ")"'


def _argument(lark: Lark, tool: ToolSpec, key: str) -> str:
    if not WORD.fullmatch(key):
        raise ValueError(
            f"{tool.place}.properties: {key!r} cannot be the name of an argument in"
            " this model's notation of calls"
        )
    value = lark.json(property_schema(tool, key), strict=tool.strict)
    return lark.rule(f"{lark.text(f'{key}=')} {value}")


def _value(lark: Lark) -> str:
    """Any literal that has a value in JSON."""
    lark.define("value", f"{_STRING} | {_NUMBER} | {_WORD} | list | dict")
    items = listed("value", True, _SEPARATOR)
    lark.define("list", f'"[" ({items})? "]"')
    entries = listed(rf"{_STRING} /: ?/ value", True, _SEPARATOR)
    lark.define("dict", f'"{{" ({entries})? "}}"')
    return "value"
