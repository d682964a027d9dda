"""Names of tools: a neuron knows functions only, and no namespaces."""

import hashlib
import re
from dataclasses import dataclass, field

_USABLE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_JOINT = "__"
_DIGEST = 10
_LONGEST = 128


@dataclass(frozen=True, slots=True)
class ToolName:
    """As the client knows it."""

    name: str
    namespace: str | None = None
    custom: bool = False
    """Called with a text, not with arguments."""


def flat(namespace: str | None, name: str) -> str:
    """The name of a function that stands for a tool; always the same for the same."""
    if namespace is None:
        return name
    joint = "" if namespace.endswith(_JOINT) else _JOINT
    joined = f"{namespace}{joint}{name}"
    if _USABLE.fullmatch(joined):
        return joined
    return _shortened(joined, f"{namespace}\0{name}")


def _shortened(joined: str, unique: str) -> str:
    digest = hashlib.sha256(unique.encode()).hexdigest()
    kept = re.sub(r"[^A-Za-z0-9_-]", "_", joined)[: _LONGEST - 1 - _DIGEST]
    return f"{kept}_{digest[:_DIGEST]}"


@dataclass(slots=True)
class ToolNames:
    """Which function stands for which tool, both ways."""

    _tools: dict[str, ToolName] = field(default_factory=dict)
    _flat: dict[tuple[str | None, str], str] = field(default_factory=dict)
    _inner: dict[str, list[str]] = field(default_factory=dict)
    """By the name without its namespace."""

    def add(self, tool: ToolName) -> str | None:
        """The function's name; None where the client has this tool already."""
        key = (tool.namespace, tool.name)
        if key in self._flat:
            return None
        name = flat(*key)
        if name in self._tools:
            name = _shortened(name, f"{tool.namespace}\0{tool.name}")
        self._tools[name] = tool
        self._flat[key] = name
        self._inner.setdefault(tool.name, []).append(name)
        return name

    def flat(self, namespace: str | None, name: str) -> str:
        """The function's name for a tool, also for one that is no longer there."""
        return self._flat.get((namespace, name)) or flat(namespace, name)

    def chosen(self, namespace: str | None, name: str) -> str | None:
        """The function that a choice by name means; None where there is none.

        A choice may leave out the namespace where the name is enough.
        """
        if known := self._flat.get((namespace, name)):
            return known
        if namespace is not None:
            return None
        inner = self._inner.get(name, [])
        return inner[0] if len(inner) == 1 else None

    def tool(self, function: str) -> ToolName:
        """The client's tool for a function that was called."""
        return self._tools.get(function) or ToolName(function)

    def __len__(self) -> int:
        return len(self._tools)
