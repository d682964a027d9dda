"""One request while the engine knows it."""

from dataclasses import dataclass, field
from typing import Final

from neuron.engines.base import GenerationRequest
from neuron.engines.reference.attention import Span
from neuron.engines.reference.cache import (
    PAGE,
    PagePool,
    PageTable,
    page_hash,
    pages_for,
)
from neuron.engines.reference.sampler import Sampler

_NO_PAGES: Final = PageTable(())


@dataclass(slots=True, eq=False)
class Sequence:
    """Prompt and output so far, and the pages that hold or will hold them."""

    request: GenerationRequest
    sampler: Sampler
    tokens: list[int]
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    table: PageTable = _NO_PAGES
    _hashes: list[bytes] = field(default_factory=list)
    """Of the full pages, as far as they are known."""

    @classmethod
    def of(cls, request: GenerationRequest) -> "Sequence":
        return cls(request, Sampler(request), list(request.prompt_ids))

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def take_pages(self, pool: PagePool) -> bool:
        """Hold all pages the request can need, cached ones first; False if too few.

        The last token of the prompt is always left to compute: what follows it is
        what we are here for.
        """
        reusable = (self.prompt_tokens - 1) // PAGE
        cached = pool.hold_cached(self._hash(index) for index in range(reusable))
        needed = pages_for(tokens_cached_at_most(self.request)) - len(cached)
        fresh = pool.hold_blank(needed)
        if fresh is None:
            pool.release(cached)
            return False
        self.table = PageTable(cached + fresh)
        self.computed = len(cached) * PAGE
        return True

    def next_span(self, limit: int) -> Span:
        """The tokens to compute next, at most `limit`."""
        count = min(limit, len(self.tokens) - self.computed)
        return Span(self.computed, count, self.table)

    def advance(self, count: int, pool: PagePool) -> None:
        """So many more tokens are in the cache; pages that are full get their names."""
        first = self.computed // PAGE
        self.computed += count
        for index in range(first, self.computed // PAGE):
            pool.name(self.table.pages[index], self._hash(index))

    @property
    def unnamed_pages(self) -> tuple[int, ...]:
        """Pages that are not full yet, and so nobody else's."""
        return self.table.pages[self.computed // PAGE :]

    def drop_pages(self, pool: PagePool) -> None:
        pool.release(self.table.pages)
        self.table = _NO_PAGES

    def _hash(self, index: int) -> bytes:
        while len(self._hashes) <= index:
            done = len(self._hashes)
            parent = self._hashes[-1] if done else b""
            part = self.tokens[done * PAGE : (done + 1) * PAGE]
            self._hashes.append(page_hash(parent, part))
        return self._hashes[index]


def tokens_cached_at_most(request: GenerationRequest) -> int:
    """Of prompt and output; the last token generated is never looked back at."""
    return len(request.prompt_ids) + request.max_new_tokens - 1
