"""The KV cache: pages of tokens, shared between requests by what is in them.

A full page is known by a hash of its tokens and of the page before it, so that equal
hashes mean equal prefixes. A page nobody holds keeps its contents, and is found by its
hash, until it is the one unused longest and somebody needs room.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Final

import numpy as np

PAGE: Final = 16
"""Tokens per page. exllamav2 has 256, for its kernels' sake; here a page costs a small
matrix product either way, and small ones share more of the short prompts and contexts
that a CPU is used for."""


def page_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Of a full page; `parent` is the hash of the page before it, b"" for the first."""
    contents = np.asarray(tokens, np.int64).tobytes()
    return blake2b(parent + contents, digest_size=16).digest()


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE)


class PageTable:
    """The pages of one sequence, from its first token on."""

    def __init__(self, pages: Sequence[int]) -> None:
        self.pages = tuple(pages)
        breaks = [
            index
            for index in range(1, len(self.pages))
            if self.pages[index] != self.pages[index - 1] + 1
        ]
        self._bounds = list(pairwise([0, *breaks, len(self.pages)]))

    def runs(self, used: int) -> Iterator[tuple[int, int, int]]:
        """Neighbouring pages among the first `used`: (index, first page, length)."""
        for start, end in self._bounds:
            if start < used:
                yield start, self.pages[start], min(end, used) - start


class PagePool:
    """Who holds which page; the contents are elsewhere, under the same numbers."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._holders = [0] * total
        self._blank = list(range(total))
        """Pages with nothing worth keeping, as a heap."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Pages with a hash and without a holder; longest unused first."""
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Pages nobody holds, cached or blank."""
        return len(self._blank) + len(self._idle)

    @property
    def used(self) -> int:
        return self.total - self.available

    def hold_cached(self, hashes: Iterable[bytes]) -> list[int]:
        """The pages of the longest cached prefix, now held by the caller too."""
        pages = []
        for digest in hashes:
            page = self._page_of.get(digest)
            if page is None:
                break
            pages.append(page)
        for page in pages:
            self._holders[page] += 1
            self._idle.pop(page, None)
        return pages

    def hold_blank(self, count: int) -> list[int] | None:
        """That many pages, held by the caller, in rising order; None if too few."""
        if count > self.available:
            return None
        pages = [
            heapq.heappop(self._blank) for _ in range(min(count, len(self._blank)))
        ]
        while len(pages) < count:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._hash_of.pop(page)]
            pages.append(page)
        for page in pages:
            self._holders[page] = 1
        # Neighbours are read in one go, and pages that were freed together are such.
        return sorted(pages)

    def name(self, page: int, digest: bytes) -> None:
        """A held page is full now; its first name stays, and so does the first page of
        a name."""
        if digest not in self._page_of and page not in self._hash_of:
            self._page_of[digest] = page
            self._hash_of[page] = digest

    def release(self, pages: Sequence[int]) -> None:
        """Let go of held pages, given from the first token on."""
        for page in reversed(pages):  # so that the end of a prefix is evicted first
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._hash_of:
                self._idle[page] = None
            else:
                heapq.heappush(self._blank, page)
