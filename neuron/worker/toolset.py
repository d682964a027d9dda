"""The tools of a request, and what it says about calling them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from neuron.protocol.errors import ApiError
from neuron.text.tools.spec import NamedTool, ToolChoice, ToolSpec
from neuron.worker.schema import ChatBody


@dataclass(frozen=True, slots=True)
class Toolset:
    """What may be called; empty where nothing may."""

    sent: Sequence[Mapping[str, Any]] = ()
    """As the template is told of them."""
    specs: tuple[ToolSpec, ...] = ()
    choice: ToolChoice = "none"
    parallel: bool = True
    """Whether one answer may hold several calls."""

    @classmethod
    def of(cls, body: ChatBody) -> Self:
        """The request's.

        Raises:
            ApiError: 400, naming what is wrong.
        """
        tools = body.tools or []
        try:
            specs = [ToolSpec.parse(t, f"tools[{i}]") for i, t in enumerate(tools)]
        except ValueError as error:
            raise _invalid(str(error)) from error
        choice, names = _choice(body.tool_choice, [spec.name for spec in specs])
        if choice == "none":
            return cls()
        kept = [
            i for i, spec in enumerate(specs) if names is None or spec.name in names
        ]
        return cls(
            [tools[i] for i in kept],
            tuple(specs[i] for i in kept),
            choice,
            body.parallel_tool_calls is not False,
        )


def _choice(
    asked: str | Mapping[str, Any] | None, known: Sequence[str]
) -> tuple[ToolChoice, Sequence[str] | None]:
    """The choice, and which tools it is among where not among all."""
    choice, names = _parsed(asked)
    if not known:
        if choice in ("none", "auto"):
            return "none", None
        raise _invalid("tool_choice: there are no tools to choose from")
    for name in names or ():
        if name not in known:
            raise _invalid(f"tool_choice: there is no tool {name!r} in tools")
    return choice, names


def _parsed(
    asked: str | Mapping[str, Any] | None,
) -> tuple[ToolChoice, Sequence[str] | None]:
    match asked:
        case None | "auto":
            return "auto", None
        case "none":
            return "none", None
        case "required":
            return "required", None
        case {"type": "function"}:
            name = _name(asked, "tool_choice")
            return NamedTool(name), [name]
        case {"type": "allowed_tools", **rest}:
            return _allowed(rest.get("allowed_tools"))
        case _:
            raise _invalid(
                "tool_choice: must be 'none', 'auto', 'required', or an object of type"
                " 'function' or 'allowed_tools'"
            )


def _allowed(asked: object) -> tuple[ToolChoice, Sequence[str]]:
    place = "tool_choice.allowed_tools"
    if not isinstance(asked, Mapping) or not isinstance(asked.get("tools"), list):
        raise _invalid(f"{place}: must be an object with mode and tools")
    names = [
        _name(tool, f"{place}.tools[{i}]") for i, tool in enumerate(asked["tools"])
    ]
    if asked.get("mode") == "auto":
        return "auto", names
    if asked.get("mode") == "required":
        return "required", names
    raise _invalid(f"{place}.mode: must be 'auto' or 'required'")


def _name(tool: object, place: str) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise _invalid(f"{place}.function.name: must be a string")
    return name


def _invalid(message: str) -> ApiError:
    """`message` begins with the place and a colon."""
    param = message.partition(":")[0]
    return ApiError(400, message, code="invalid_request_body", param=param)
