"""From a request's body to the tokens that the engine continues."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from neuron.engines.base import Image
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
from neuron.worker.images import ImageReader, Picture, take_images
from neuron.worker.schema import ChatBody, CompletionBody, Prompt
from neuron.worker.tool_notes import with_tools_told
from neuron.worker.toolset import Toolset
from neuron.worker.unsupported import UNSUPPORTED


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt, as text and as tokens."""

    text: str
    ids: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()
    """Its images, as far as they are known: `ids` has a token for each of their parts.
    """
    images: tuple[Image, ...] = ()
    """The pictures, once they are decoded."""


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
    images: ImageReader | None = None
    """None where the model takes no images."""

    def chat(
        self, body: ChatBody, tools: Toolset, *, to_fit: bool = False
    ) -> PromptText:
        """The prompt that a request for a chat is charged for.

        Raises:
            ApiError: as `_render`, or the request asks for what images cannot have.
        """
        prompt = self._render(body, tools, to_fit=to_fit)
        _refuse_beside_images(body, prompt)
        return self._truncated(prompt, body)

    def _render(self, body: ChatBody, tools: Toolset, *, to_fit: bool) -> PromptText:
        """A conversation, up to where the answer begins. Slow for long ones.

        Raises:
            ApiError: 400, it is none, or where it is `to_fit`, certainly too long; 422,
                the template refuses it.
        """
        sent: list[Message] = [message.as_sent() for message in body.messages]
        conversation = take_images(sent, self.images)
        text = self._rendered(body, tools, conversation.messages)
        if self.images is not None:
            text = self.images.spell(text, conversation)
        if to_fit:
            self._refuse_long(text, "messages")
        # A template of the model's own spells the beginning of the sequence itself.
        add_bos = body.add_special_tokens
        ids = self.tokenizer.encode(
            text, add_bos=self.template.is_plain if add_bos is None else add_bos
        )
        if self.images is None:
            return PromptText(text, tuple(ids))
        ids, pictures = self.images.place(ids, conversation)
        return PromptText(text, tuple(ids), pictures)

    def _rendered(
        self, body: ChatBody, tools: Toolset, messages: Sequence[Message]
    ) -> str:
        """What the template makes of it.

        Raises:
            ApiError: 400, nothing can; 422, the template refuses it.
        """
        goes_on = body.continue_final_message is True
        begins = body.add_generation_prompt
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
        return text if goes_on else self._without_thought(body, text)

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
            ApiError: as `chat` and `encode`, or one is empty or too long.
        """
        to_fit = body.truncate_prompt_tokens is None
        if isinstance(body, ChatBody):
            prompts, param = [self.chat(body, tools, to_fit=to_fit)], "messages"
        else:
            add_bos = body.add_special_tokens is not False
            prompts = [
                self._truncated(self.encode(each, add_bos=add_bos, to_fit=to_fit), body)
                for each in body.prompts
            ]
            param = "prompt"
        for prompt in prompts:
            self._check_length(len(prompt.ids), param)
        return [self._with_images(prompt) for prompt in prompts]

    def _with_images(self, prompt: PromptText) -> PromptText:
        """The prompt with its pictures decoded, now that they are known to fit.

        Raises:
            ApiError: 400, a file is damaged.
        """
        if self.images is None or not prompt.pictures:
            return prompt
        return replace(prompt, images=self.images.decode(prompt.pictures))

    def _truncated(
        self, prompt: PromptText, body: ChatBody | CompletionBody
    ) -> PromptText:
        """As much of the prompt as the request wants to keep.

        Raises:
            ApiError: 400, that is more than ever fits.
        """
        if (most := body.truncate_prompt_tokens) is None:
            return prompt
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


def _refuse_beside_images(body: ChatBody, prompt: PromptText) -> None:
    """
    Raises:
        ApiError: 400, the request asks for what there is not together with images.
    """
    if not prompt.pictures:
        return
    for name in ("prompt_logprobs", "truncate_prompt_tokens"):
        if getattr(body, name) is not None:
            raise ApiError(
                400, f"{name}: not supported together with images",
                code=UNSUPPORTED, param=name,
            )  # fmt: skip


def _refused(error: TemplateError) -> ApiError:
    if isinstance(error, ConversationError | ContinuationError):
        return ApiError(400, str(error), code="invalid_request_body", param=error.param)
    return ApiError(
        422,
        f"the model's chat template refuses these messages: {error}",
        code="template_render_failed",
        param=error.param,
    )
