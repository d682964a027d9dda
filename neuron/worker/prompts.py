"""From a request's body to what the engine generates from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuron.engines.base import GenerationRequest
from neuron.models.info import ModelInfo
from neuron.protocol.errors import ApiError
from neuron.text.chat import ChatTemplate, TemplateError
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.sampling import resolve
from neuron.worker.schema import ChatBody, ChatMessage, CompletionBody


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The loaded model, as the routes know it."""

    info: ModelInfo
    tokenizer: TextTokenizer
    template: ChatTemplate
    max_seq_len: int
    """Longest prompt and answer together, in tokens."""
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)

    def render(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Raises:
            ApiError: 422, the template refuses it.
        """
        try:
            text = self.template.render(
                [message.model_dump(exclude_none=True) for message in messages]
            )
        except TemplateError as error:
            raise ApiError(
                422,
                f"the model's chat template refuses these messages: {error}",
                code="template_render_failed",
                param="messages",
            ) from error
        # A template of the model's own spells the beginning of the sequence itself.
        return self.tokenizer.encode(text, add_bos=self.template.is_plain)

    def prompt_ids(self, body: ChatBody | CompletionBody) -> list[int]:
        """Token ids of the request's prompt. Slow for long ones.

        Raises:
            ApiError: it is empty, or holds ids that the model does not have.
        """
        if isinstance(body, ChatBody):
            ids, param = self.render(body.messages), "messages"
        elif isinstance(body.prompt, str):
            ids, param = self.tokenizer.encode(body.prompt, add_bos=True), "prompt"
        else:
            ids, param = body.prompt, "prompt"
            self.check_ids(ids, param)
        if not ids:
            raise ApiError(
                400, f"{param}: must not be empty", code="invalid_request_body",
                param=param,
            )  # fmt: skip
        if len(ids) >= self.max_seq_len:
            raise ApiError(
                400,
                f"This model's maximum context length is {self.max_seq_len} tokens."
                f" However, your {param} came to {len(ids)} tokens, and at least one"
                " is needed for the answer.",
                code="context_length_exceeded",
                param=param,
            )
        return ids

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

    def request(
        self, request_id: str, body: ChatBody | CompletionBody
    ) -> GenerationRequest:
        """What the engine is asked for. Slow for long prompts.

        Raises:
            ApiError: something about the request cannot be.
        """
        ids = self.prompt_ids(body)
        self.check_ids(body.logit_bias, "logit_bias")
        self.check_ids(body.stop_token_ids or (), "stop_token_ids")
        left = self.max_seq_len - len(ids)
        stop_ids = frozenset(body.stop_token_ids or ())
        if not body.ignore_eos:
            stop_ids |= frozenset(self.info.eos_ids)
        return GenerationRequest(
            id=request_id,
            prompt_ids=tuple(ids),
            max_new_tokens=min(body.output_limit or left, left),
            min_new_tokens=body.min_tokens or 0,
            sampling=resolve(body, self.sampling_defaults),
            stop_ids=stop_ids,
            top_logprobs=body.scored,
        )
