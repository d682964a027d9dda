"""Tools and the choice among them, as functions that a neuron knows."""

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.gateway.dialects.base import Json
from services.gateway.dialects.fields import (
    expect,
    join,
    objects,
    optional,
    refused,
    required,
    unsupported,
)
from services.gateway.dialects.responses.ignored import TOOL, ignored
from services.gateway.dialects.responses.lark import NotRegularError, as_regex
from services.gateway.dialects.responses.tool_names import ToolName, ToolNames

INPUT = "input"
"""The one argument of a function that stands for a custom tool."""
FORMAT = "format"
"""The field of a custom tool that says what its text is like."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NOT_HERE = "is one of OpenAI's own tools, which are not here"
_CALLABLE = ("function", "custom")


@dataclass(slots=True)
class Toolset:
    """The tools of one request."""

    functions: list[Json] = field(default_factory=list)
    """As the neuron is told of them."""
    places: list[str] = field(default_factory=list)
    """Where each stands in the client's request."""
    names: ToolNames = field(default_factory=ToolNames)
    hosted: list[tuple[str, str]] = field(default_factory=list)
    """Place and type of what nobody here can run."""
    ignored: set[str] = field(default_factory=set)
    """Fields of tools that have no effect here."""
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, body: Json) -> "Toolset":
        """The request's.

        A hosted tool beside others is left out with a warning, because agents send one
        unasked.

        Raises:
            ApiError: 400, a tool is malformed, or all are hosted.
        """
        tools = cls()
        for place, tool in objects(body, "tools", ""):
            tools._add(tool, place)
        for place, kind in tools.hosted:
            if not tools.functions:
                raise unsupported(f"{place}.type", f"'{kind}' {_NOT_HERE}")
            tools.warnings.append(f"{place}: '{kind}' {_NOT_HERE}")
        return tools

    def _add(self, tool: Json, place: str) -> None:
        match required(tool, "type", str, place):
            case "function" | "custom":
                self._add_callable(tool, place, None, "")
            case "namespace":
                self._add_namespace(tool, place)
            case kind:
                self.hosted.append((place, kind))

    def _add_namespace(self, tool: Json, place: str) -> None:
        namespace = required(tool, "name", str, place)
        # Told once, with its first tool: the neuron's form has no other place for it.
        about = optional(tool, "description", str, place) or ""
        self.ignored |= ignored(tool, TOOL)
        for inner_place, inner in objects(tool, "tools", place):
            kind = required(inner, "type", str, inner_place)
            if kind not in _CALLABLE:
                raise unsupported(f"{inner_place}.type", f"'{kind}' {_NOT_HERE}")
            self._add_callable(inner, inner_place, namespace, about)
            about = ""

    def _add_callable(
        self, tool: Json, place: str, namespace: str | None, about: str
    ) -> None:
        custom = tool["type"] == "custom"
        name = required(tool, "name", str, place)
        if not _NAME.fullmatch(name) or (namespace is None and len(name) > 128):
            raise refused(
                f"{place}.name",
                "should be 1 to 128 letters, digits, dashes, underscores",
            )
        self.ignored |= ignored(tool, TOOL)
        function = self.names.add(ToolName(name, namespace, custom))
        if function is None:
            raise refused(f"{place}.name", f"there is another tool '{name}'")
        described = optional(tool, "description", str, place)
        told = "\n\n".join(filter(None, (about, described)))
        worded: Json = {"name": function}
        if told:
            worded["description"] = told
        worded |= self._custom(tool, place) if custom else _arguments(tool, place)
        self.functions.append({"type": "function", "function": worded})
        # All that can be wrong with a custom tool's function is in its grammar.
        self.places.append(f"{place}.{FORMAT}" if custom else place)

    def _custom(self, tool: Json, place: str) -> Json:
        """A custom tool's input as the one argument, its grammar enforced or told."""
        text: Json = {"type": "string"}
        at = f"{place}.{FORMAT}"
        format_ = optional(tool, FORMAT, dict, place) or {"type": "text"}
        match required(format_, "type", str, at):
            case "text":
                pass
            case "grammar":
                text |= self._grammar(format_, at)
            case kind:
                raise refused(f"{at}.type", f"'{kind}' is neither text nor grammar")
        schema = {
            "type": "object",
            "properties": {INPUT: text},
            "required": [INPUT],
            "additionalProperties": False,
        }
        return {"parameters": schema, "strict": True}

    def _grammar(self, format_: Json, at: str) -> Json:
        definition = required(format_, "definition", str, at)
        match required(format_, "syntax", str, at):
            case "regex":
                return {"pattern": f"^(?:{_bare(definition)})$"}
            case "lark":
                try:
                    return {"pattern": f"^(?:{as_regex(definition)})$"}
                except NotRegularError as error:
                    self.warnings.append(f"{at}: told, but not enforced: {error}")
                    return {"description": f"By this Lark grammar:\n{definition}"}
            case syntax:
                raise refused(f"{at}.syntax", f"'{syntax}' is neither lark nor regex")

    # Choosing.

    def choice(self, body: Json) -> Any:
        """`tool_choice` as the neuron has it; None where it is not given.

        Raises:
            ApiError: 400, it asks for what is not there.
        """
        asked = body.get("tool_choice")
        if asked is None:
            return None
        if isinstance(asked, str):
            if asked not in ("none", "auto", "required"):
                raise refused(
                    "tool_choice", "should be none, auto, required or an object"
                )
            return asked
        place = "tool_choice"
        asked = expect(asked, dict, place)
        match required(asked, "type", str, place):
            case "function" | "custom":
                return self._chosen(asked, place)
            case "allowed_tools":
                return self._allowed(asked, place)
            case kind:
                raise unsupported(f"{place}.type", f"'{kind}' {_NOT_HERE}")

    def _chosen(self, asked: Json, place: str) -> Json:
        name = required(asked, "name", str, place)
        namespace = optional(asked, "namespace", str, place)
        function = self.names.chosen(namespace, name)
        if function is None:
            raise refused(join(place, "name"), f"there is no tool '{name}' in tools")
        return {"type": "function", "function": {"name": function}}

    def _allowed(self, asked: Json, place: str) -> Json:
        allowed: list[Json] = []
        hosted: list[tuple[str, str]] = []
        for at, tool in objects(asked, "tools", place):
            kind = required(tool, "type", str, at)
            if kind in _CALLABLE:
                allowed.append(self._chosen(tool, at))
            else:
                hosted.append((at, kind))
        for at, kind in hosted:
            if not allowed:
                raise unsupported(f"{at}.type", f"'{kind}' {_NOT_HERE}")
            self.warnings.append(f"{at}: '{kind}' {_NOT_HERE}")
        mode = required(asked, "mode", str, place)
        if mode not in ("auto", "required"):
            raise refused(f"{place}.mode", "should be auto or required")
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": mode, "tools": allowed},
        }


def _bare(regex: str) -> str:
    """A regex of a whole text without the anchors that some write all the same."""
    regex = regex.removeprefix("^")
    body = regex.removesuffix("$")
    escaped = (len(body) - len(body.rstrip("\\"))) % 2
    return regex if escaped else body


def called_with(text: str) -> str:
    """A custom tool's input as the arguments of its function."""
    return orjson.dumps({INPUT: text}).decode()


def _arguments(tool: Json, place: str) -> Json:
    given = {
        "parameters": optional(tool, "parameters", dict, place),
        "strict": optional(tool, "strict", bool, place),
    }
    return {name: value for name, value in given.items() if value is not None}
