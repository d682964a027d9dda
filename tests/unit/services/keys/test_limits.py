"""Rates and budgets, and the books behind them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st

from neuron.protocol.errors import ApiError
from services.keys import secret
from services.keys.file import KeySection
from services.keys.ledger import Entry, Ledger, Spent
from services.keys.limits import Limits, check_model
from services.keys.minute import SPAN_S, Minute
from services.keys.window import HOUR_S, MAX_HOURS

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


def key(**fields: Any) -> KeySection:
    values = {"id": "alice", "name": "Alice", "hash": secret.hashed("x"), **fields}
    return KeySection.model_validate(values)


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(time, "monotonic", clock)
    yield clock
    monkeypatch.undo()


def refusal(limits: Limits, of: KeySection) -> ApiError:
    with pytest.raises(ApiError) as caught:
        limits.begin(of)
    return caught.value


# The last minute.


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=40),
    st.integers(1, 200),
    st.floats(0, 70),
)
def test_the_last_minute(
    steps: list[tuple[float, int]], limit: int, later: float
) -> None:
    minute, now, added = Minute(), 1000.0, []
    for pause, count in steps:
        now += pause
        minute.add(count, now)
        added.append((now, count))
    now += later
    total = minute.total(now)
    exact = [count for at, count in added if now - at <= SPAN_S]
    lenient = [count for at, count in added if now - at <= SPAN_S + 1]
    assert sum(exact) <= total <= sum(lenient)
    wait = minute.wait_below(limit, now)
    assert (wait == 0) == (total < limit)
    if wait:
        assert 0 < wait <= SPAN_S + 1
        assert minute.total(now + wait - 1.01) >= limit
        assert minute.total(now + wait) < limit


def test_a_minute_is_bounded() -> None:
    minute = Minute()
    for number in range(10_000):
        minute.add(1, number / 10)
    assert len(minute._seconds) <= SPAN_S + 1


# Rates.


def test_requests_per_minute(clock: Clock) -> None:
    limits, alice = Limits(), key(requests_per_minute=2)
    limits.begin(alice)
    clock.now += 10
    limits.begin(alice)
    error = refusal(limits, alice)
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.retry_after == 51
    assert "'Alice' has used up its requests per minute (2)" in error.message
    assert limits.last_minute(alice) == (2, 0), "a refused one is not counted"
    clock.now += error.retry_after
    limits.begin(alice)
    assert refusal(limits, alice).retry_after == 10


def test_tokens_per_minute_are_known_afterwards(clock: Clock) -> None:
    limits, alice = Limits(), key(tokens_per_minute=100)
    limits.begin(alice)
    limits.begin(alice)
    limits.end(alice, Spent(prompt=90, completion=9, last_used=clock.now))
    limits.begin(alice)
    limits.end(alice, Spent(completion=1, last_used=clock.now))
    error = refusal(limits, alice)
    assert "tokens per minute (100)" in error.message
    assert error.retry_after == 61
    clock.now += 61
    limits.begin(alice)


def test_keys_do_not_share_rates(clock: Clock) -> None:
    limits = Limits()
    alice, bob = key(requests_per_minute=1), key(id="bobb", requests_per_minute=1)
    limits.begin(alice)
    limits.begin(bob)
    refusal(limits, alice)


def test_a_limit_that_was_raised_counts_at_once(clock: Clock) -> None:
    limits = Limits()
    limits.begin(key(requests_per_minute=1))
    refusal(limits, key(requests_per_minute=1))
    limits.begin(key(requests_per_minute=2))
    limits.begin(key())


# Budgets.


def test_a_budget_of_tokens_renews(clock: Clock) -> None:
    made = datetime.fromtimestamp(NOON - 90 * 60, UTC)
    limits = Limits()
    alice = key(budget_tokens=10, window="1d", created_at=made)
    limits.end(alice, Spent(prompt=6, completion=3, last_used=clock.now))
    limits.begin(alice)
    limits.end(alice, Spent(completion=1, last_used=clock.now))
    error = refusal(limits, alice)
    assert (error.status, error.code) == (429, "insufficient_quota")
    assert "budget of 10 tokens per 1d; it renews at 2026-11-25 10:00 UTC" in str(error)
    assert error.retry_after == 22 * HOUR_S
    assert error.details == {"renews_at": NOON + 22 * HOUR_S}
    clock.now += 22 * HOUR_S - 1
    refusal(limits, alice)
    clock.now += 1
    limits.begin(alice)
    assert limits.spent(alice, clock.now) == Spent()


def test_a_budget_of_money(clock: Clock) -> None:
    limits, alice = Limits(), key(budget_cost=0.5)
    limits.end(alice, Spent(prompt=10**6, cost=0.49, last_used=clock.now))
    limits.begin(alice)
    limits.end(alice, Spent(cost=0.01, last_used=clock.now))
    assert "its budget of 0.5 per 30d" in refusal(limits, alice).message


def test_models() -> None:
    check_model(key(), "anything")
    check_model(key(models=["org/qwen*"]), "org/qwen3")
    with pytest.raises(ApiError, match="'Alice' may not use 'llama'") as caught:
        check_model(key(models=["org/qwen*"]), "llama")
    assert (caught.value.status, caught.value.type) == (403, "permission_error")


# The ledger.

hours = st.integers(0, 60)
spendings = st.lists(
    st.tuples(st.sampled_from(["alice", "bobb"]), hours, st.integers(0, 99)),
    max_size=30,
)


@given(spendings, hours, hours)
def test_sums_are_those_of_the_hours(
    spendings: list[tuple[str, int, int]], since: int, then: int
) -> None:
    ledger = Ledger()
    ledger.since("alice", since)
    for who, hour, tokens in spendings:
        ledger.add(who, Spent(1, tokens, last_used=hour * HOUR_S + 1.0))
    for start in (since, then, since):
        told = ledger.since("alice", start)
        expected = [t for w, hour, t in spendings if w == "alice" and hour >= start]
        assert (told.requests, told.tokens) == (len(expected), sum(expected))


@given(spendings)
def test_what_is_unsaved_is_all_there_is(spendings: list[tuple[str, int, int]]) -> None:
    ledger, saved = Ledger(), list[Entry]()
    for number, (who, hour, tokens) in enumerate(spendings):
        ledger.add(who, Spent(1, tokens, last_used=hour * HOUR_S + 1.0))
        if number % 3 == 0:
            saved += ledger.take_unsaved()
        if number % 5 == 0:
            ledger.put_back(ledger.take_unsaved())
    saved += ledger.take_unsaved()
    assert ledger.take_unsaved() == []
    restored = Ledger()
    restored.restore(saved)
    for who in ("alice", "bobb"):
        assert restored.since(who, 0) == ledger.since(who, 0)
        assert restored.last_used(who) == ledger.last_used(who)


def test_hours_of_years_ago_are_forgotten() -> None:
    ledger = Ledger()
    ledger.add("alice", Spent(1, last_used=1.0))
    ledger.add("alice", Spent(1, last_used=(MAX_HOURS + 1) * HOUR_S + 1.0))
    assert ledger.since("alice", 0).requests == 1
