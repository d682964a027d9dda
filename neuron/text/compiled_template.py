"""One chat template, compiled: a context in, text or the reason out."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import jinja2
from jinja2 import meta

from neuron.text.template_bounds import Budget, RenderLimits, bounded_by
from neuron.text.template_environment import ChatEnvironment, RefusalError

if TYPE_CHECKING:
    from types import TracebackType

_LONGEST_SOURCE: Final = 1 << 18
"""Characters; compiling is not bounded otherwise. The longest known has 40,000."""


class TemplateError(Exception):
    """The template refuses this conversation, or is broken itself.

    Attributes:
        line: of the template, where known.
        param: which part of the request it is about.
    """

    def __init__(
        self, message: str, *, line: int | None = None, param: str = "messages"
    ) -> None:
        super().__init__(message)
        self.line = line
        self.param = param


class CompiledTemplate:
    """A template's source, ready to render; safe to share between threads."""

    def __init__(self, source: str, limits: RenderLimits | None = None) -> None:
        """Compile it.

        Raises:
            TemplateError: it is not valid Jinja.
        """
        self.source = source
        self._limits = limits or RenderLimits()
        if len(source) > _LONGEST_SOURCE:
            raise TemplateError(
                f"the chat template is broken: it is longer than {_LONGEST_SOURCE}"
            )
        try:
            # What is constant is computed at once.
            with bounded_by(Budget(self._limits)):
                self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is broken: {error.message} (line {error.lineno})",
                line=error.lineno,
            ) from error
        except Exception as error:  # Foreign code: anything can come of it.
            raise TemplateError(
                f"the chat template is broken: {_said(error)}"
            ) from error

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """What it expects to be given, such as `messages` and `enable_thinking`."""
        with bounded_by(Budget(self._limits)):
            tree = _environment().parse(self.source)
            return frozenset(meta.find_undeclared_variables(tree))

    def render(
        self, context: Mapping[str, Any], limits: RenderLimits | None = None
    ) -> str:
        """Its text.

        Raises:
            TemplateError: it refuses, in its own words, or fails, or wants too much.
        """
        try:
            with bounded_by(Budget(limits or self._limits, context)):
                return self._template.render(context)
        except RefusalError as error:
            raise TemplateError(str(error), line=_line(error)) from error
        except Exception as error:  # Foreign code: anything can come of it.
            line = _line(error)
            place = "" if line is None else f" (line {line} of the template)"
            raise TemplateError(f"{_said(error)}{place}", line=line) from error


@functools.cache
def _environment() -> ChatEnvironment:
    return ChatEnvironment()


def reserved_names() -> frozenset[str]:
    """What every template finds defined."""
    return frozenset(_environment().globals)


def _said(error: Exception) -> str:
    """Jinja's messages are sentences; those of other errors need their kind."""
    if isinstance(error, jinja2.TemplateError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _line(error: BaseException) -> int | None:
    """Of the innermost frame that is the template's."""
    line = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        # Jinja rewrites these frames, so that their lines are the template's.
        if "__jinja_exception__" in trace.tb_frame.f_globals:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
