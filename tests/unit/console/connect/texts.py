"""Settings files as people write them: any layout, with comments all over."""

import json
from typing import Any

from hypothesis import strategies as st

from cortex_tui.connect.merge import Entries, IfAbsent

NAMES = st.sampled_from(["a", "b", "model", "name", "x-y"])
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-99, 99),
    st.text("ab \"'#:/,{}\\é", max_size=6),
)


def tables(leaves: st.SearchStrategy[Any] = SCALARS) -> st.SearchStrategy[Any]:
    """Settings: mappings, lists and what is in them."""
    return st.dictionaries(
        NAMES,
        st.recursive(
            leaves,
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(NAMES, inner, max_size=3)
                | st.lists(st.fixed_dictionaries({"name": NAMES}), max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=4,
    )


def wanted() -> st.SearchStrategy[dict[str, Any]]:
    """Settings to merge into others."""
    entries = st.builds(
        Entries,
        st.just("name"),
        st.lists(
            st.fixed_dictionaries({"name": NAMES, "b": SCALARS}),
            min_size=1,
            max_size=2,
            unique_by=lambda item: item["name"],
        ).map(tuple),
    )
    leaves = st.one_of(SCALARS, st.builds(IfAbsent, SCALARS), entries)
    return st.dictionaries(
        NAMES,
        st.recursive(
            leaves, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3)
        ),
        min_size=1,
        max_size=4,
    )


@st.composite
def jsonc(draw: st.DrawFn, value: Any) -> str:
    """`value` in JSON, with comments and trailing commas."""
    space = st.sampled_from(
        ["", "", " ", "\n", "\n  ", "\t", "\r\n", " // no, {this}\n", "/* a, b */"]
    )

    def render(part: Any) -> str:
        match part:
            case dict():
                inner = [
                    f"{draw(space)}{json.dumps(name)}{draw(space)}:{draw(space)}"
                    f"{render(item)}{draw(space)}"
                    for name, item in part.items()
                ]
                return "{" + joined(inner) + "}"
            case list():
                parts = [f"{draw(space)}{render(item)}{draw(space)}" for item in part]
                return "[" + joined(parts) + "]"
            case _:
                return draw(st.sampled_from([json.dumps(part), _unescaped(part)]))

    def joined(parts: list[str]) -> str:
        trailing = draw(st.booleans()) and bool(parts)
        return ",".join(parts) + ("," if trailing else "") + draw(space)

    return draw(space) + render(value) + draw(space)


def _unescaped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@st.composite
def yaml(draw: st.DrawFn, value: dict[str, Any] | list[Any]) -> str:
    """`value` in YAML: blocks of any indentation, some of it in flow style."""
    writer = _YamlWriter(draw)
    lines = "\n".join(writer.block(value, 0))
    return lines + draw(st.sampled_from(["\n", "", "\n\n# the end\n"]))


class _YamlWriter:
    _COMMENT = st.sampled_from(["", "", "", "  # why: not"])
    _BETWEEN = st.sampled_from([[], [], [""], ["# between"], ["", "  # a: b"]])

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._step = draw(st.sampled_from([1, 2, 4]))
        self._dash = draw(st.sampled_from([0, 2]))

    def block(self, value: Any, indent: int) -> list[str]:
        lines: list[str] = []
        before = " " * indent
        if isinstance(value, dict):
            for name, item in value.items():
                lines += self._draw(self._BETWEEN)
                lines += self._entry(f"{before}{name}:", item, indent)
        else:
            for item in value:
                lines += [*self._draw(self._BETWEEN), *self._item(before, item, indent)]
        return lines

    def _entry(self, head: str, item: Any, indent: int) -> list[str]:
        if not isinstance(item, dict | list) or not item or self._draw(st.booleans()):
            return [self._flow(head, item)]
        deeper = indent + (self._dash if isinstance(item, list) else self._step)
        return [head + self._draw(self._COMMENT), *self.block(item, deeper)]

    def _item(self, before: str, item: Any, indent: int) -> list[str]:
        if not isinstance(item, dict) or not item or self._draw(st.booleans()):
            return [self._flow(f"{before}-", item)]
        lines = self.block(item, indent + 2)
        while not lines[0].strip() or lines[0].lstrip().startswith("#"):
            del lines[0]
        return [f"{before}- {lines[0].lstrip()}", *lines[1:]]

    def _flow(self, head: str, item: Any) -> str:
        text = _unescaped(item)
        if isinstance(item, str) and self._draw(st.booleans()):
            text = "'" + item.replace("'", "''") + "'"
        return f"{head} {text}{self._draw(self._COMMENT)}"


def within(old: str, new: str) -> bool:
    """Whether `new` is `old` with something between its characters; the space inside of
    empty braces may go."""
    rest = iter(new)
    return all(character in rest for character in old if character not in " \t")
