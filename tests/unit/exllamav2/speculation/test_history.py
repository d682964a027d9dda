"""What followed the last time is what is guessed."""

from hypothesis import given, strategies as st

from neuron.engines.exllamav2.speculation.history import LONGEST, SHORTEST, History


def continuation(tokens: list[int], count: int) -> list[int]:
    """By the definition."""
    for length in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == tokens[-length:]:
                after = tokens[start + length :]
                return [after[number % len(after)] for number in range(count)]
    return []


@given(
    tokens=st.lists(st.integers(0, 3), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    count=st.integers(1, 8),
)
def test_it_is_the_longest_and_latest_match(
    tokens: list[int], cuts: list[int], count: int
) -> None:
    history = History()
    for cut in sorted(cuts):
        history.update(tokens[:cut])
        assert history.continuation(count) == continuation(tokens[:cut], count)
    history.update(tokens)
    assert history.continuation(count) == continuation(tokens, count)


def test_a_long_one_grows() -> None:
    tokens = [*range(5000), 17, 18]
    history = History()
    for end in (1, 1000, 1024, 1025, 5002):
        history.update(tokens[:end])
    assert history.continuation(3) == [19, 20, 21]


def test_a_period_goes_on() -> None:
    history = History()
    history.update([1, 2, 3, 1, 2, 3, 1, 2])
    assert history.continuation(7) == [3, 1, 2, 3, 1, 2, 3]


def test_a_single_token_says_nothing() -> None:
    history = History()
    history.update([1, 2, 3, 1])
    assert history.continuation(2) == []
