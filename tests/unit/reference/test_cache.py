"""Pages of the KV cache: who holds them, what is found again, what is evicted."""

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from neuron.engines.reference.cache import (
    PAGE,
    PagePool,
    PageTable,
    page_hash,
    pages_for,
)


def test_hash_depends_on_tokens_and_on_what_came_before() -> None:
    tokens = list(range(PAGE))
    first = page_hash(b"", tokens)
    assert first == page_hash(b"", tuple(tokens))
    others = {
        page_hash(b"", [*tokens[:-1], 99]),
        page_hash(b"", [99, *tokens[1:]]),
        page_hash(first, tokens),
        page_hash(page_hash(first, tokens), tokens),
    }
    assert len(others | {first}) == 5


@pytest.mark.parametrize(
    ("tokens", "pages"), [(0, 0), (1, 1), (PAGE, 1), (PAGE + 1, 2)]
)
def test_pages_for(tokens: int, pages: int) -> None:
    assert pages_for(tokens) == pages


def test_table_gives_neighbours_together() -> None:
    table = PageTable([4, 5, 6, 2, 3, 9])
    assert list(table.runs(6)) == [(0, 4, 3), (3, 2, 2), (5, 9, 1)]
    assert list(table.runs(4)) == [(0, 4, 3), (3, 2, 1)]
    assert list(table.runs(2)) == [(0, 4, 2)]
    assert list(PageTable(()).runs(0)) == []


def test_blank_pages_come_first_and_side_by_side() -> None:
    pool = PagePool(6)
    assert pool.hold_blank(3) == [0, 1, 2]
    assert pool.hold_blank(4) is None
    assert (pool.used, pool.available) == (3, 3)


def filled(pool: PagePool, name: bytes, count: int) -> list[int]:
    """Held pages that are full and known as name0, name1, …"""
    pages = pool.hold_blank(count)
    assert pages is not None
    for number, page in enumerate(pages):
        pool.name(page, name + b"%d" % number)
    return pages


def test_released_pages_are_found_by_their_hash() -> None:
    pool = PagePool(4)
    pages = filled(pool, b"a", 3)
    pool.release(pages)
    assert pool.used == 0
    assert pool.hold_cached([b"a0", b"a1", b"x", b"a2"]) == pages[:2]
    assert pool.used == 2


def test_shared_pages_are_free_when_the_last_holder_lets_go() -> None:
    pool = PagePool(2)
    pages = filled(pool, b"a", 2)
    assert pool.hold_cached([b"a0"]) == pages[:1]
    pool.release(pages)
    assert pool.used == 1
    assert pool.hold_blank(2) is None
    pool.release(pages[:1])
    assert pool.used == 0


def test_longest_unused_page_goes_first_and_prefixes_last() -> None:
    pool = PagePool(4)
    old, new = filled(pool, b"old", 2), filled(pool, b"new", 2)
    pool.release(old)
    pool.release(new)
    pool.release(pool.hold_cached([b"old0"]))
    assert pool.hold_blank(1) == [old[1]]
    assert pool.hold_blank(1) == [new[1]]
    assert pool.hold_cached([b"new0", b"new1"]) == [new[0]]
    assert pool.hold_cached([b"old0"]) == [old[0]]


def test_contents_cached_twice_are_kept_once() -> None:
    pool = PagePool(2)
    first, second = filled(pool, b"a", 1), filled(pool, b"a", 1)
    pool.release(second)
    pool.release(first)
    assert pool.hold_blank(1) == second
    assert pool.hold_cached([b"a0"]) == first


class Pool(RuleBasedStateMachine):
    """Any order of calls, against a model of who holds what."""

    TOTAL = 7
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(self.TOTAL)
        self.held: list[list[int]] = []
        self.names = 0

    @rule(target=holds, count=st.integers(0, 4))
    def hold_blank(self, count: int) -> list[int]:
        in_use = {page for pages in self.held for page in pages}
        pages = self.pool.hold_blank(count)
        if count > self.TOTAL - len(in_use):
            assert pages is None
            return []
        assert pages is not None
        assert len(set(pages) - in_use) == count
        self.held.append(pages)
        return pages

    @rule(pages=holds)
    def name(self, pages: list[int]) -> None:
        if pages in self.held:
            for page in pages:
                self.pool.name(page, b"%d" % (self.names % 9))
                self.names += 1

    @rule(target=holds, first=st.integers(0, 9), count=st.integers(1, 4))
    def hold_cached(self, first: int, count: int) -> list[int]:
        hashes = [b"%d" % (first + i) for i in range(count)]
        pages = self.pool.hold_cached(hashes)
        assert len(pages) == len(set(pages)) <= count
        self.held.append(pages)
        return pages

    @rule(pages=consumes(holds))
    def release(self, pages: list[int]) -> None:
        if pages in self.held:
            self.held.remove(pages)
            self.pool.release(pages)

    @invariant()
    def every_page_is_held_or_free(self) -> None:
        assert self.pool.used == len({p for pages in self.held for p in pages})


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(st.lists(st.integers(0, 20), unique=True), st.integers(0, 20))
def test_runs_are_the_table(pages: list[int], used: int) -> None:
    used = min(used, len(pages))
    found = [
        (index + step, page + step)
        for index, page, length in PageTable(pages).runs(used)
        for step in range(length)
    ]
    assert found == list(enumerate(pages[:used]))
