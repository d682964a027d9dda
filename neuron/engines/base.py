"""The interface between an engine and everything above it.

An engine owns weights, KV cache and the decode loop of one loaded model. Tokenizing,
chat templates, stop strings, tool calls, usage, metrics and admission sit above this
interface and are shared, so that engines cannot diverge. One dedicated thread makes
every call on a loaded engine; `probe`, `supports` and `plan` are pure and callable
anywhere, without the backend being imported.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from neuron.models.info import ModelInfo
from neuron.protocol.types import EngineInfo, LoadOptions, LoadPlan, LoadRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ProgressCallback = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


class EngineError(Exception):
    """A failure that the engine can name.

    `code` is the envelope's code; a `retryable` one may succeed later unchanged;
    after a `fatal` one the process must be recycled.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retryable: bool = False,
        fatal: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.retryable = retryable
        self.fatal = fatal


class TokenConstraint(Protocol):
    """What one output may still become; a request's own, used in one thread at a time.

    Whatever it raises fails its request and no other.
    """

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that it takes for an end of the output, whatever the stop ids are."""

    def mask(self) -> "NDArray[np.int32]":
        """Bits of the tokens that may come next, token 0 the lowest of the first word.

        At least as many bits as the model has tokens. End tokens are among them where
        the output may end. May take long: engines call it beside the forward pass.
        """

    def accept(self, token_id: int) -> None:
        """That token, one of the mask's, has been chosen."""

    def may_end(self) -> bool:
        """Whether the output is complete as it stands; more may still follow."""

    def is_finished(self) -> bool:
        """Whether the output is complete and nothing more can follow."""

    def is_free(self) -> bool:
        """Whether any token may come from here on, and the output end anywhere, for
        good; engines ask after a token, and then need the constraint no more."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; the defaults are neutral.

    Applied in this order: logit_bias, penalties, the request's constraint, temperature,
    top_k, top_p, min_p.
    """

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Over prompt and output: divides positive logits, multiplies negative (CTRL)."""
    frequency_penalty: float = 0.0
    """Per occurrence in the output, subtracted from the logit (OpenAI)."""
    presence_penalty: float = 0.0
    """Once per distinct token of the output, subtracted from its logit (OpenAI)."""
    logit_bias: Mapping[int, float] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Token id → added to its logit."""
    seed: int | None = None
    """Equal seeds give equal output, whatever else is in the batch; None is random."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image of a prompt, sized as the model takes it."""

    pixels: "NDArray[np.uint8]"
    """[height, width, 3]: red, green, blue from 0 to 255; not to be written to."""
    digest: bytes
    """The same for the same pixels in the same shape."""
    positions: tuple[int, ...]
    """Of the prompt's tokens that stand for its parts, row after row. There the prompt
    has the token that the model's tokenizer has for a part of an image."""

    @classmethod
    def of(cls, pixels: "NDArray[np.uint8]", positions: tuple[int, ...]) -> "Image":
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=32)
        digest.update(repr(pixels.shape).encode())
        return cls(pixels, digest.digest(), positions)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to continue."""

    id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    """0 is allowed with `prompt_logprobs`, which then are all there is."""
    sampling: SamplingParams = SamplingParams()
    min_new_tokens: int = 0
    """Stop ids are not sampled before this many tokens, unless a constraint leaves
    nothing else."""
    stop_ids: frozenset[int] = frozenset()
    """Generation ends after one of these; the id itself is emitted."""
    top_logprobs: int | None = None
    """None: no log-probabilities; n ≥ 0: the chosen token's, and the n likeliest."""
    prompt_logprobs: int | None = None
    """As `top_logprobs`, of the prompt; all of it is computed anew for them."""
    images: tuple[Image, ...] = ()
    """In the order of their positions; engines that do not see refuse them."""
    constraint: TokenConstraint | None = None
    """What the output must be. Stop ids are sampled where it may end and only there;
    once nothing can follow the request is finished, with reason `stop` and without an
    end token."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at temperature 1, before penalties and truncation."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability), likeliest first."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request left the queue; `cached_tokens` of its prompt need no prefill."""

    id: str
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done` of `total` prompt tokens are in the KV cache."""

    id: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Of the prompt's tokens from position `start` on; the first token has none.

    Every later position comes once, in order, before the first TokenEvent.
    """

    id: str
    start: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One more token; several in one step (speculation) are several events."""

    id: str
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The request is over and its slot is free."""

    id: str
    reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Failed:
    """The request is over with an error; other requests go on."""

    id: str
    error: EngineError


EngineEvent = (
    Started | PrefillProgress | PromptLogprobs | TokenEvent | Finished | Failed
)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since load and gauges now."""

    running: int = 0
    waiting: int = 0
    steps: int = 0
    kv_pages_used: int = 0
    """Pages that running requests hold; cached pages nobody holds count as free."""
    kv_pages_total: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    """Times that a running request gave its pages up for older ones."""
    accepted_draft_tokens: int = 0
    """Guesses of speculative decoding that became output; and those that did not."""
    rejected_draft_tokens: int = 0
    memory_bytes: int | None = None
    """Weights, cache and scratch as measured; None where it cannot be told."""


class LoadCancelledError(Exception):
    """The load was given up because its `cancelled` callback said so."""


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """A load, decided: which model, with every default filled in."""

    info: ModelInfo
    max_seq_len: int
    slots: int
    cache_mode: str
    cache_tokens: int
    devices: tuple[int, ...] = ()
    options: LoadOptions = field(default_factory=LoadOptions)
    draft: ModelInfo | None = None
    """The model that `options.draft` names."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What a plan may count on, in bytes."""

    ram_available: int | None
    vram_free: Mapping[int, int] = field(default_factory=dict)
    """Device index → free VRAM."""


class Engine(Protocol):
    """One backend; an instance holds one loaded model."""

    name: ClassVar[str]

    @classmethod
    def probe(cls) -> EngineInfo:
        """Whether this host can run the engine, without importing its backend."""

    @classmethod
    def supports(cls, info: ModelInfo) -> str | None:
        """None where the engine can load the model, else why it cannot."""

    @classmethod
    def plan(
        cls,
        info: ModelInfo,
        request: LoadRequest,
        memory: HostMemory,
        draft: ModelInfo | None = None,
    ) -> LoadPlan:
        """Fill in defaults and say what the load needs and whether it fits.

        `draft` describes the model that the request's `draft` names.

        Raises:
            EngineError: a field of the request is one this engine cannot honour;
                `param` names it.
        """

    def load(
        self,
        spec: LoadSpec,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> None:
        """Blocking; leaves nothing allocated when it raises.

        Raises:
            LoadCancelledError: `cancelled()` became true between two tensors.
            EngineError: the directory cannot be loaded.
        """

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; it takes part from the next step on.

        Raises:
            EngineError: it can never fit, or a value is out of range.
        """

    def cancel(self, request_id: str) -> None:
        """Forget a request, queued or running; no event follows. Any id is fine."""

    def step(self) -> list[EngineEvent]:
        """One prefill chunk and one decode step, for whoever is due."""

    def has_work(self) -> bool:
        """Whether another step would do something."""

    def stats(self) -> EngineStats: ...

    def unload(self) -> None:
        """Give everything back; the instance can load again."""
