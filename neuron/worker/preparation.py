"""What the engine is asked for, one request for every choice."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from neuron.engines.base import GenerationRequest, SamplingParams, TokenConstraint
from neuron.text.output import OutputSyntax
from neuron.worker.constraints import Thought, Wanted, limited
from neuron.worker.prompts import PromptText, ServedModel
from neuron.worker.reply import ReplyShape
from neuron.worker.sampling import resolve
from neuron.worker.schema import ChatBody, CompletionBody
from neuron.worker.token_healing import RespellingFirst, TakenBack, TokenHealing
from neuron.worker.token_limits import LimitedTokens, TokenLimits
from neuron.worker.toolset import Toolset

Body = ChatBody | CompletionBody


@dataclass(frozen=True, slots=True)
class Prepared:
    """One choice: what to generate, and how to read it."""

    index: int
    prompt: int
    """Which of the request's prompts it answers."""
    request: GenerationRequest
    shape: ReplyShape


async def prepare(model: ServedModel, request_id: str, body: Body) -> list[Prepared]:
    """All choices of a request, those of the first prompt first.

    Raises:
        ApiError: something about the request cannot be.
    """
    chat = body if isinstance(body, ChatBody) else None
    tools = Toolset.of(chat) if chat else Toolset()
    syntax = model.syntax if chat else OutputSyntax()
    wanted = Wanted.of(body, tools, syntax)
    await wanted.check(model.grammars)
    model.check_ids(body.logit_bias, "logit_bias")
    model.check_ids(body.stop_token_ids or (), "stop_token_ids")
    # In a thread: long prompts take long, and others are being answered.
    prompts = await asyncio.to_thread(model.prompts, body, tools)
    limits = TokenLimits.of(body, model, _stop_ids(model, body))
    prepared: list[Prepared] = []
    for number, (prompt, taken) in enumerate(await _healed(model, body, prompts)):
        thought = model.thought(chat, prompt) if chat else None
        inside = thought is not None and thought.open
        shape = _shape(model, body, tools, prompt, inside)
        request = _request(model, body, request_id, prompt)
        if taken is not None:
            shape = replace(shape, respelt=taken.chars)
        if limits is not None:
            request = replace(request, stop_ids=limits.stop_ids)
        for choice in range(body.choices):
            index = len(prepared)
            constraint = await _constraint(model, wanted, thought, taken)
            if limits is not None:
                constraint = LimitedTokens(limits, constraint)
            asked = replace(
                request,
                id=f"{request_id}-{index}",
                sampling=_seeded(request.sampling, choice),
                constraint=_budgeted(model, body, constraint, inside),
            )
            if chat and choice:
                # One answer tells of the prompt, for all.
                asked = replace(asked, prompt_logprobs=None)
            prepared.append(Prepared(index, number, asked, shape))
    return prepared


async def _healed(
    model: ServedModel, body: Body, prompts: Sequence[PromptText]
) -> list[tuple[PromptText, TakenBack | None]]:
    """The prompts as the model gets them, each with what was taken from its end.

    Raises:
        ApiError: 400, the model allows for no token healing.
    """
    asked = isinstance(body, CompletionBody) and body.token_healing is True
    # Where no answer is wanted there is none to begin with it.
    if not asked or body.output_limit == 0:
        return [(prompt, None) for prompt in prompts]
    healing = await TokenHealing.of(model)
    return [healing.take(prompt, _stop_ids(model, body)) for prompt in prompts]


async def _constraint(
    model: ServedModel,
    wanted: Wanted,
    thought: Thought | None,
    taken: TakenBack | None,
) -> TokenConstraint | None:
    """What is wanted, after what was taken back."""
    if taken is None:
        return await wanted.compiled(model.grammars, thought)
    prefix = taken.as_text
    inner = await wanted.compiled(model.grammars, thought, prefix)
    # With such a prefix, a grammar sees to it itself.
    if inner is not None and prefix:
        return inner
    return RespellingFirst(taken, model.info.vocab_size, inner)


def _shape(
    model: ServedModel, body: Body, tools: Toolset, prompt: PromptText, inside: bool
) -> ReplyShape:
    common = ReplyShape(
        stops=body.stop,
        stop_ids=frozenset(body.stop_token_ids or ()) - _ends(model, body),
        keep_stop=body.include_stop_str_in_output is True,
        min_tokens=body.min_tokens or 0,
        whole=not body.stream,
        token_ids=body.return_token_ids is True,
    )
    if body.skip_special_tokens is False:
        common = replace(common, visible=model.tokenizer.special_ids)
    if isinstance(body, CompletionBody):
        return replace(common, echo=prompt.text if body.echo else None)
    return replace(
        common,
        syntax=model.syntax if tools.specs else model.syntax.without_tools(),
        tools=tools.specs,
        in_reasoning=inside,
        several_calls=tools.parallel,
        reasoning=body.include_reasoning is not False,
    )


def _request(
    model: ServedModel, body: Body, request_id: str, prompt: PromptText
) -> GenerationRequest:
    left = model.max_seq_len - len(prompt.ids)
    limit = left if body.output_limit is None else min(body.output_limit, left)
    return GenerationRequest(
        id=request_id,
        prompt_ids=prompt.ids,
        max_new_tokens=limit,
        min_new_tokens=body.min_tokens or 0,
        sampling=resolve(body, model.sampling_defaults),
        stop_ids=_stop_ids(model, body),
        top_logprobs=body.scored,
        prompt_logprobs=_prompt_logprobs(body, limit),
        images=prompt.images,
    )


def _stop_ids(model: ServedModel, body: Body) -> frozenset[int]:
    return frozenset(body.stop_token_ids or ()) | _ends(model, body)


def _ends(model: ServedModel, body: Body) -> frozenset[int]:
    """Tokens with which the model itself ends an answer."""
    return frozenset() if body.ignore_eos else frozenset(model.info.eos_ids)


def _prompt_logprobs(body: Body, limit: int) -> int | None:
    """How many alternatives to score per token of the prompt; None: none is scored."""
    wanted = [] if body.prompt_logprobs is None else [body.prompt_logprobs]
    echo = isinstance(body, CompletionBody) and body.echo is True
    # Without an answer, they are what there is to compute.
    if echo and (body.scored is not None or not limit):
        wanted.append(body.scored or 0)
    return max(wanted, default=None)


def _seeded(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Choices of one prompt differ, and each is the same whenever it is asked for."""
    if sampling.seed is None or not choice:
        return sampling
    text = f"{sampling.seed}:{choice}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return replace(sampling, seed=int.from_bytes(digest) >> 1)


def _budgeted(
    model: ServedModel, body: Body, constraint: TokenConstraint | None, inside: bool
) -> TokenConstraint | None:
    if not isinstance(body, ChatBody) or body.thinking_token_budget is None:
        return constraint
    return limited(
        constraint,
        body.thinking_token_budget,
        syntax=model.syntax,
        in_reasoning=inside,
        tokenizer=model.tokenizer,
        vocab=model.info.vocab_size,
    )
