"""The README's tables of configuration keys, from the models that read them.

`python -m tests.support.config_reference` writes them into the README.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from neuron.config import NeuronConfig
from neuron.engines.exllamav2.levers import PREFIX, Levers
from services.catalogue import CatalogueFile
from services.config import CortexConfig
from services.keys.file import KeysFile
from tests.support.readme import README, with_part

if TYPE_CHECKING:
    from typing_extensions import TypeIs

BEGIN, END = "<!-- configuration keys -->", "<!-- end of configuration keys -->"
FILES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("cortex.toml", CortexConfig),
    ("models.toml", CatalogueFile),
    ("keys.toml", KeysFile),
    ("neuron.toml", NeuronConfig),
)


def tables() -> str:
    """One Markdown table a file, and one of what only the environment sets."""
    parts = [_table(f"`{name}`", _rows(model, "")) for name, model in FILES]
    return "\n\n".join([*parts, _table("Environment of a neuron", _levers())])


def _table(title: str, rows: Iterator[tuple[str, str, str]]) -> str:
    lines = [f"| {title} | Default | |", "|---|---|---|"]
    lines += [" | ".join(("", *row, "")).strip() for row in rows]
    return "\n".join(lines)


def _levers() -> Iterator[tuple[str, str, str]]:
    docstrings = _docstrings_of(Levers)
    for field in dataclasses.fields(Levers):
        text = " ".join(docstrings[field.name].split()).rstrip(".")
        default = field.default
        if isinstance(default, bool):
            default = "on" if default else "off"
        yield f"`{PREFIX}{field.name.upper()}`", f"`{default}`", text


def _rows(model: type[BaseModel], table: str) -> Iterator[tuple[str, str, str]]:
    nested = []
    docstrings = _docstrings(model)
    # What has to be given comes first.
    fields = sorted(model.model_fields.items(), key=lambda f: not f[1].is_required())
    for name, field in fields:
        inner, many = _section(field)
        if inner is not None:
            path = f"{table.strip('[]')}.{name}".strip(".")
            nested.append((f"[[{path}]]" if many else f"[{path}]", inner))
            continue
        text = " ".join(docstrings[name].split()).rstrip(".")
        yield f"`{table} {name}`".replace("` ", "`"), _default(field), text
    for header, inner in nested:
        yield from _rows(inner, header)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The string under each field, inherited fields included."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.__module__.split(".")[0] != "pydantic":
            found |= _docstrings_of(base)
    return found


def _docstrings_of(class_: type) -> dict[str, str]:
    """The string under each of its own fields."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(class_))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        ast.unparse(field.target): ast.literal_eval(after.value)
        for field, after in pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


def _section(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, and whether it may hold several."""
    if _is_section(field.annotation):
        return field.annotation, False
    # Those that may be left out are a union with None.
    annotation: object = field.annotation
    if isinstance(annotation, UnionType):
        for argument in get_args(annotation):
            if _is_section(argument):
                return argument, False
    for argument in (field.annotation, *get_args(field.annotation)):
        for inner in get_args(argument):
            if _is_section(inner):
                return inner, True
    return None, False


def _is_section(annotation: object) -> "TypeIs[type[BaseModel]]":
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    home = str(Path.home())
    match value:
        case None | () | []:
            return "–"
        case str():
            return f'`"{value}"`'
        case bool():
            return f"`{str(value).lower()}`"
        case [*paths]:
            return ", ".join(f"`{str(path).replace(home, '~')}`" for path in paths)
        case _:
            return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def with_tables(readme: str) -> str:
    """The README's text with the tables as they are now.

    Raises:
        ValueError: the README has no place for them.
    """
    return with_part(readme, BEGIN, END, tables())


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), encoding="utf-8")
