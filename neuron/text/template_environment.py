"""The Jinja environment that chat templates expect: Hugging Face's, with bounds.

Sandboxed and immutable, blocks trimmed, loop controls, `tojson` that does not escape
for HTML, `raise_exception`, `strftime_now`, `{% generation %}`. As in transformers,
`namespace` takes no underscored attributes and `dict` is not the class itself.
`neuron.text.template_bounds` says what a template may use up. Left out for that is what
makes or takes any amount, and what no chat needs: see `_LEFT_OUT`.
"""

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from neuron.text import template_bounds as bounds, template_estimates as estimates

_LEFT_OUT: Final = frozenset(
    ("lipsum", "pprint", "striptags", "urlize", "wordwrap", "xmlattr")
)
"""Functions and filters of Jinja's own."""

_NO_METHODS: Final = frozenset(("encode", "striptags", "to_bytes"))
"""Of strings and numbers: without these there are no bytes to bound."""

_SCOPES: Final = frozenset(("_block_vars", "_loop_vars"))
"""What a call inside a block or loop is handed by Jinja beside its arguments."""


class RefusalError(jinja2.TemplateError):
    """The template called `raise_exception`."""


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles chat templates; they render inside `template_bounds.bounded_by`."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    concat = staticmethod(bounds.bounded_concat)
    tick = staticmethod(bounds.tick)
    bounded = staticmethod(bounds.bounded)
    joined = staticmethod(bounds.joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationBlock],
        )
        self.filters["tojson"] = _tojson
        self.filters = {
            name: _guarded(name, function)
            for name, function in self.filters.items()
            if name not in _LEFT_OUT
        }
        self.tests = {
            name: _guarded(name, function) for name, function in self.tests.items()
        }
        self.globals = {
            name: value for name, value in self.globals.items() if name not in _LEFT_OUT
        } | {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "namespace": _Namespace,
            "dict": _Dict(),
        }

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As Jinja says, and nothing that makes bytes."""
        return attr not in _NO_METHODS and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Intercepted, because these can make much of little."""
        estimates.check_operator(operator, left, right)
        return bounds.bounded(super().call_binop(context, operator, left, right))

    # Nameless parameters, because a template may name its arguments as it likes.
    def call(
        __self,
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        bounds.tick()
        method = getattr(__obj, "__wrapped__", __obj)
        subject = getattr(method, "__self__", None)
        if isinstance(subject, str):
            args = tuple(_settled(args))
            named = [kwargs[name] for name in kwargs.keys() - _SCOPES]
            estimates.check_call(method.__name__, subject, [*args, *named])
        return bounds.bounded(super().call(__context, __obj, *args, **kwargs))

    def _generate(
        self,
        source: nodes.Template,
        name: str | None,
        filename: str | None,
        defer_init: bool = False,
    ) -> str:
        guarded: nodes.Template = _Guard(self).visit(source)
        return super()._generate(guarded, name, filename, defer_init=defer_init)


class _Guard(NodeTransformer):
    """Hooks for what the environment is not asked about by itself."""

    def __init__(self, environment: ChatEnvironment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        tick = nodes.ExprStmt(self._hook("tick", [], node.lineno))
        node.body.insert(0, tick.set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._hook("joined", node.nodes, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._collection(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._collection(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._collection(node, [pair.value for pair in node.items])

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return self._hook("bounded", [node], node.lineno)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        quick = any(isinstance(side, nodes.Const) for side in sides)
        if quick and not any("in" in operand.op for operand in node.ops):
            return node
        return self._hook("bounded", [node], node.lineno)

    def _collection(self, node: nodes.Expr, items: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        if all(isinstance(item, nodes.Const) for item in items):
            return node
        return self._hook("bounded", [node], node.lineno)

    def _hook(self, name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name)
        call = nodes.Call(function, arguments, [], None, None)
        call.set_lineno(line).set_environment(self._environment)
        return call


def _guarded(name: str, function: Any) -> Callable[..., Any]:
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bounds.tick()
        given = _settled(args)
        subject, *others = given[passed:] or [""]
        estimates.check_call(name, subject, [*others, *kwargs.values()])
        return bounds.bounded(function(*given, **kwargs))

    return wrapper


def _settled(arguments: Iterable[Any]) -> list[Any]:
    """Generators as lists, which have a size."""
    return [
        list(value) if isinstance(value, Iterator) else value for value in arguments
    ]


class _GenerationBlock(Extension):
    """`{% generation %}` marks what a model is trained on; here it is only its text."""

    tags = {"generation"}  # noqa: RUF012 - declared mutable by the base class

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = nodes.CallBlock(self.call_method("_text"), [], [], body)
        block.set_lineno(line)
        return block

    def _text(self, caller: Macro) -> str:
        return str(caller())


class _Namespace(Namespace):
    """Jinja's, without underscored attributes, and not to be spelt out."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self = args[0]
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_attribute(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no attribute called {name!r}")


class _Dict:
    """What templates know as `dict`, without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """As the class method of that name."""
        return dict.fromkeys(keys, value)


def _raise_exception(message: object) -> NoReturn:
    raise RefusalError(str(message))


def _now() -> datetime.datetime:
    return datetime.datetime.now()


def _strftime_now(format_: str) -> str:
    return _now().strftime(format_)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    if indent is None and separators is None:
        return encoder.encode(value)
    if isinstance(indent, int):
        bounds.current_budget().check(indent)
    return bounds.bounded_concat(encoder.iterencode(value))
