"""From a request's body to the tokens that the engine continues."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from neuron.models.info import ModelInfo
from neuron.protocol.errors import ApiError
from neuron.text.abandonment import stop_if_abandoned
from neuron.text.chat import ChatTemplate, ConversationError, Message, TemplateError
from neuron.text.continuation import ContinuationError
from neuron.text.grammar import GrammarCompiler
from neuron.text.output import OutputSyntax
from neuron.text.reasoning import opens_reasoning
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.constraints import Thought
from neuron.worker.schema import ChatBody, CompletionBody, Prompt
from neuron.worker.tool_notes import with_tools_told
from neuron.worker.toolset import Toolset


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt, as text and as tokens."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The loaded model, as the routes know it."""

    info: ModelInfo
    tokenizer: TextTokenizer
    template: ChatTemplate
    syntax: OutputSyntax
    grammars: GrammarCompiler
    max_seq_len: int
    """Longest prompt and answer together, in tokens."""
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)

    def render(
        self, body: ChatBody, tools: Toolset, *, to_fit: bool = False
    ) -> PromptText:
        """A conversation, up to where the answer begins. Slow for long ones.

        Raises:
            ApiError: 400, it is none, or where it is `to_fit`, certainly too long; 422,
                the template refuses it.
        """
        goes_on = body.continue_final_message is True
        begins = body.add_generation_prompt
        messages: list[Message] = [message.as_sent() for message in body.messages]
        told = tools.sent
        support = self.template.tool_support(tools=bool(told))
        messages, told = with_tools_told(messages, told, support)
        try:
            text = self.template.render(
                messages,
                tools=told,
                add_generation_prompt=not goes_on if begins is None else begins,
                continue_final_message=goes_on,
                kwargs=self._variables(body),
            )
        except TemplateError as error:
            raise _refused(error) from error
        if not goes_on:
            text = self._without_thought(body, text)
        if to_fit:
            self._refuse_long(text, "messages")
        # A template of the model's own spells the beginning of the sequence itself.
        add_bos = body.add_special_tokens
        ids = self.tokenizer.encode(
            text, add_bos=self.template.is_plain if add_bos is None else add_bos
        )
        return PromptText(text, tuple(ids))

    def _without_thought(self, body: ChatBody, text: str) -> str:
        """Where none is wanted and the template opens one all the same, close it.

        Empty, as templates that know the wish write it.
        """
        syntax = self.syntax.reasoning
        wanted = body.template_variables.get("enable_thinking") is not False
        if syntax is None or wanted or not opens_reasoning(text, syntax):
            return text
        return f"{text.rstrip()}\n\n{syntax.end}\n\n"

    def _variables(self, body: ChatBody) -> Mapping[str, Any]:
        """What the template is told; `thinking` is what some call `enable_thinking`."""
        variables = body.template_variables
        if self.template.reads("thinking") and "enable_thinking" in variables:
            variables.setdefault("thinking", variables["enable_thinking"])
        return variables

    def encode(
        self, prompt: Prompt, *, add_bos: bool = True, to_fit: bool = False
    ) -> PromptText:
        """A prompt that is a text, or the ids of one. Slow for long ones.

        Raises:
            ApiError: 400, there are ids that the model does not have, or where it is
                `to_fit`, it is certainly too long.
        """
        if isinstance(prompt, str):
            if to_fit:
                self._refuse_long(prompt, "prompt")
            ids = self.tokenizer.encode(prompt, add_bos=add_bos)
            return PromptText(prompt, tuple(ids))
        self.check_ids(prompt, "prompt")
        return PromptText(self.tokenizer.decode(prompt), tuple(prompt))

    def prompts(
        self, body: ChatBody | CompletionBody, tools: Toolset
    ) -> list[PromptText]:
        """All prompts of a request, each of a length that leaves room for an answer.

        Raises:
            ApiError: as `render` and `encode`, or one is empty or too long.
        """
        to_fit = body.truncate_prompt_tokens is None
        if isinstance(body, ChatBody):
            prompts, param = [self.render(body, tools, to_fit=to_fit)], "messages"
        else:
            add_bos = body.add_special_tokens is not False
            prompts = [
                self.encode(each, add_bos=add_bos, to_fit=to_fit)
                for each in body.prompts
            ]
            param = "prompt"
        if not to_fit:
            prompts = [self._truncated(prompt, body) for prompt in prompts]
        for prompt in prompts:
            self._check_length(len(prompt.ids), param)
        return prompts

    def _truncated(
        self, prompt: PromptText, body: ChatBody | CompletionBody
    ) -> PromptText:
        """As much of the prompt as the request wants to keep.

        Raises:
            ApiError: 400, that is more than ever fits.
        """
        most = body.truncate_prompt_tokens or -1
        if most == -1:
            answer = 1 if body.output_limit is None else body.output_limit
            most = max(self.max_seq_len - max(answer, 1), 1)
        elif most >= self.max_seq_len:
            raise ApiError(
                400,
                f"truncate_prompt_tokens: {most} tokens and an answer do not fit the"
                f" model's context of {self.max_seq_len}",
                code="invalid_request_body",
                param="truncate_prompt_tokens",
            )
        if len(prompt.ids) <= most:
            return prompt
        from_left = body.truncation_side != "right"
        ids = prompt.ids[-most:] if from_left else prompt.ids[:most]
        if isinstance(body, CompletionBody):
            return PromptText(self.tokenizer.decode(ids), ids)
        # Its end says whether the model is in a thought.
        return PromptText(prompt.text, ids)

    def _check_length(self, length: int, param: str) -> None:
        if not length:
            raise ApiError(
                400, f"{param}: must not be empty", code="invalid_request_body",
                param=param,
            )  # fmt: skip
        if length >= self.max_seq_len:
            raise self._too_long(f"{length}", param)

    def _refuse_long(self, text: str, param: str) -> None:
        """As `_check_length`, before a text is tokenized, which cannot be stopped."""
        stop_if_abandoned()
        least = self.tokenizer.at_least(text)
        if least >= self.max_seq_len:
            raise self._too_long(f"at least {least}", param)

    def _too_long(self, length: str, param: str) -> ApiError:
        return ApiError(
            400,
            f"This model's maximum context length is {self.max_seq_len} tokens."
            f" However, your {param} came to {length} tokens, and at least one"
            " is needed for the answer.",
            code="context_length_exceeded",
            param=param,
        )

    def check_ids(self, ids: Iterable[int], param: str) -> None:
        """Refuse ids outside the vocabulary.

        Raises:
            ApiError: 400, naming the first one.
        """
        size = self.info.vocab_size
        for token_id in ids:
            if not 0 <= token_id < size:
                raise ApiError(
                    400,
                    f"{param}: {token_id} is no token id; the vocabulary has {size}",
                    code="invalid_request_body",
                    param=param,
                )

    def thought(self, body: ChatBody, prompt: PromptText) -> Thought | None:
        """The thought that comes before the answer; None where none may."""
        if (syntax := self.syntax.reasoning) is None:
            return None
        inside = opens_reasoning(prompt.text, syntax)
        # A template may write an empty thought for the model.
        closed = prompt.text.rstrip().endswith(syntax.end)
        unwanted = body.template_variables.get("enable_thinking") is False
        if not inside and (closed or unwanted):
            return None
        return Thought(syntax.start, syntax.end, open=inside)


def _refused(error: TemplateError) -> ApiError:
    if isinstance(error, ConversationError | ContinuationError):
        return ApiError(400, str(error), code="invalid_request_body", param=error.param)
    return ApiError(
        422,
        f"the model's chat template refuses these messages: {error}",
        code="template_render_failed",
        param=error.param,
    )
