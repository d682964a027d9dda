"""One request while the engine knows it."""

from dataclasses import dataclass, field
from typing import Final

from neuron.engines.base import GenerationRequest, TokenLogprobs
from neuron.engines.constrained import Constrained
from neuron.engines.reference.attention import Span
from neuron.engines.reference.cache import (
    PAGE,
    PagePool,
    PageTable,
    page_hash,
    pages_for,
)
from neuron.engines.reference.sampler import Sampler
from neuron.engines.reference.tiles import Floats
from neuron.engines.validation import tokens_cached_at_most

PIECE: Final = 4
"""Pages that a sequence takes at a time beyond those it can fill at once."""

_NO_PAGES: Final = PageTable(())


@dataclass(slots=True, eq=False)
class Sequence:
    """Prompt and output so far, and the pages that hold or will hold them.

    One that is preempted loses its pages and is otherwise as it was: once it has pages
    again its prompt and output are prefilled together.
    """

    request: GenerationRequest
    sampler: Sampler
    constrained: Constrained | None
    tokens: list[int]
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    table: PageTable = _NO_PAGES
    started: bool = False
    """Whether it ever had pages."""
    prefilled: int = 0
    """Tokens of the prompt that were computed, be it before it was preempted."""
    _hashes: list[bytes] = field(default_factory=list)
    """Of the full pages, as far as they are known."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def may_take(self) -> int:
        """Pages that it may still want, at most a piece."""
        most = pages_for(tokens_cached_at_most(self.request))
        return min(PIECE, most - len(self.table.pages))

    @property
    def is_full(self) -> bool:
        """Whether its next token has no page."""
        return self.computed == len(self.table.pages) * PAGE

    def take_pages(self, pool: PagePool, spare: int) -> bool:
        """Hold pages for all tokens so far and a piece more, cached ones first.

        False if less than `spare` would be left. The last token is always left to
        compute: what follows it is what we are here for.
        """
        held = pages_for(len(self.tokens))
        most = pages_for(tokens_cached_at_most(self.request))
        cached = pool.hold_cached(self._hash(index) for index in range(self._reusable))
        needed = min(most, held + PIECE) - len(cached)
        fresh = None
        if needed + spare <= pool.available:
            fresh = pool.hold_blank(needed)
        if fresh is None:
            pool.release(cached)
            return False
        self.table = PageTable(cached + fresh)
        self.computed = len(cached) * PAGE
        return True

    @property
    def _reusable(self) -> int:
        """Full pages that need not be computed if they are cached."""
        known = len(self.tokens) - 1
        if self.request.prompt_logprobs is not None and not self.is_prefilled:
            known = min(known, self.prefilled)
        return known // PAGE

    @property
    def is_prefilled(self) -> bool:
        """Whether all of the prompt was computed, be it before it was preempted."""
        return self.prefilled == self.prompt_tokens

    def grow(self, pool: PagePool) -> bool:
        """Hold a piece more, or what there is; False if there is nothing."""
        fresh = pool.hold_blank(min(self.may_take, pool.available))
        if not fresh:
            return False
        self.table = PageTable([*self.table.pages, *fresh])
        return True

    def choose(
        self, logits: Floats, likeliest: int
    ) -> tuple[int, TokenLogprobs | None, bool]:
        """The next token, with log-probabilities if wanted, and whether it is the end.

        Raises:
            EngineError: the request's constraint failed.
        """
        constrained = self.constrained
        allowed = None
        if constrained is not None:
            allowed = constrained.allowed(may_stop=not self.sampler.must_go_on)
        token, logprobs = self.sampler.sample(logits, likeliest, allowed)
        is_last = token in self.request.stop_ids
        if constrained is not None and not is_last:
            is_last = constrained.accept(token)
            if constrained.is_free:
                self.constrained = None
        self.tokens.append(token)
        return token, logprobs, is_last

    def next_span(self, limit: int) -> Span:
        """The tokens to compute next, at most `limit`."""
        count = min(limit, len(self.tokens) - self.computed)
        return Span(self.computed, count, self.table)

    def advance(self, count: int, pool: PagePool) -> None:
        """So many more tokens are in the cache; pages that are full get their names."""
        first = self.computed // PAGE
        self.computed += count
        self.prefilled = max(self.prefilled, min(self.computed, self.prompt_tokens))
        for index in range(first, self.computed // PAGE):
            pool.name(self.table.pages[index], self._hash(index))

    @property
    def unnamed_pages(self) -> tuple[int, ...]:
        """Pages that are not full yet, and so nobody else's."""
        return self.table.pages[self.computed // PAGE :]

    def drop_pages(self, pool: PagePool) -> None:
        pool.release(self.table.pages)
        self.table = _NO_PAGES
        self.computed = 0

    def _hash(self, index: int) -> bytes:
        while len(self._hashes) <= index:
            done = len(self._hashes)
            parent = self._hashes[-1] if done else b""
            part = self.tokens[done * PAGE : (done + 1) * PAGE]
            self._hashes.append(page_hash(parent, part))
        return self._hashes[index]
