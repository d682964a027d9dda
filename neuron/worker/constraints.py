"""What an output must be, out of all that a request says about it.

Structured output, tool calls that must or may come instead, and the thought before
either become one grammar; a thinking budget is laid around it.
"""

from dataclasses import dataclass, replace
from typing import Final

from neuron.engines.base import TokenConstraint
from neuron.protocol.errors import ApiError
from neuron.text.detokenizer import Detokenizer
from neuron.text.grammar import GrammarCompiler, GrammarError, GrammarSpec
from neuron.text.grammar_request import RequestedGrammar, requested_grammar
from neuron.text.output import OutputSyntax
from neuron.text.thought import ThoughtTracker
from neuron.text.tokenizer import TextTokenizer
from neuron.text.tools.constraint import constraint_for
from neuron.worker.schema import GenerationBody
from neuron.worker.thinking_budget import ThinkingBudget
from neuron.worker.toolset import Toolset

_TOOLS: Final = "tools"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request's demands on its output."""

    format: RequestedGrammar | None
    calls: GrammarSpec | None
    """Calls that must be made or, with a format, that may be made instead; without
    either, text that may end in such calls."""
    must_call: bool

    @classmethod
    def of(cls, body: GenerationBody, tools: Toolset, syntax: OutputSyntax) -> "Wanted":
        """What `body` asks for.

        Raises:
            ApiError: 400, naming what cannot be.
        """
        try:
            format_ = requested_grammar(body.grammar_fields)
        except GrammarError as error:
            raise _invalid("", error, code="invalid_request_body") from error
        must_call = tools.choice not in ("none", "auto")
        instead = tools.choice == "auto" and format_ is not None
        choice = "required" if instead else tools.choice
        try:
            calls = constraint_for(syntax, tools.specs, choice, tools.parallel)
        except ValueError as error:
            message = str(error)
            raise ApiError(
                400,
                message,
                code="invalid_request_body",
                param=message.partition(":")[0],
            ) from error
        return cls(format_, calls, must_call)

    async def check(self, compiler: GrammarCompiler) -> None:
        """See that each part can be followed, while it can still be told which cannot.

        Raises:
            ApiError: 400, the format or a tool's parameters are no usable grammar.
        """
        if self.format is not None:
            await _compiled(compiler, self.format.spec, self.format.field)
        if self.calls is not None:
            await _compiled(compiler, self.calls, _TOOLS)

    async def compiled(
        self, compiler: GrammarCompiler, thought: "Thought | None", prefix: str = ""
    ) -> TokenConstraint | None:
        """A constraint for one output; None where anything goes.

        Where there is one, the output begins with `prefix`; not beside a thought.

        Raises:
            ApiError: 400, all parts together are too much.
        """
        spec = self._whole(thought)
        if spec is not None and prefix:
            spec = replace(spec, prefix=prefix)
        field = _TOOLS if self.format is None else self.format.field
        return None if spec is None else await _compiled(compiler, spec, field)

    def _whole(self, thought: "Thought | None") -> GrammarSpec | None:
        format_ = None if self.format is None else self.format.spec
        spec = self.calls or format_
        if spec is None:
            return None
        if self.calls is not None and not self.must_call:
            # Compiled on its own already, so that nothing in it is passed over.
            spec = replace(spec, alternative=format_)
        if thought is None:
            return spec
        if thought.open:
            return replace(spec, after=thought.end)
        return replace(spec, thought=(thought.start, thought.end))


@dataclass(frozen=True, slots=True)
class Thought:
    """The thought that may, or must, come before the answer."""

    start: str
    end: str
    open: bool
    """The prompt ends inside it."""


def limited(
    inner: TokenConstraint | None,
    budget: int,
    *,
    syntax: OutputSyntax,
    in_reasoning: bool,
    tokenizer: TextTokenizer,
    vocab: int,
) -> TokenConstraint | None:
    """`inner` with a thinking budget, where the model thinks at all."""
    if (reasoning := syntax.reasoning) is None:
        return inner
    token = syntax.tokens.get(reasoning.end)
    ids = [token] if token is not None else tokenizer.encode(
        reasoning.end, add_bos=False
    )  # fmt: skip
    return ThinkingBudget(
        inner,
        budget,
        vocab=vocab,
        end=ids,
        tracker=ThoughtTracker(reasoning, inside=in_reasoning),
        detokenizer=Detokenizer(tokenizer, visible=syntax.visible_tokens),
    )


async def _compiled(
    compiler: GrammarCompiler, spec: GrammarSpec, field: str
) -> TokenConstraint:
    try:
        return await compiler.constraint(spec)
    except GrammarError as error:
        raise _invalid(field, error, code="invalid_grammar") from error


def _invalid(field: str, error: GrammarError, code: str) -> ApiError:
    where = [part for part in (error.part or field, error.place) if part]
    param = error.part.partition(" ")[0] or field or error.place
    return ApiError(400, ": ".join([*where, error.message]), code=code, param=param)
