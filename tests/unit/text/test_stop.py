"""Stop strings do not depend on how the text is split, and never show."""

from itertools import pairwise

from hypothesis import given, strategies as st

from neuron.text.stop import StopMatcher

Letters = st.text(alphabet="abc", max_size=24)
Stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


def pass_through(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.feed(piece) for piece in pieces)
    if matcher.matched is None:
        text += matcher.flush()
    return text, matcher.matched


@given(text=Letters, stops=Stops, cuts=st.lists(st.integers(0, 24)))
def test_any_split_gives_the_same(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert pass_through(stops, pieces) == pass_through(stops, list(text))


@given(text=Letters, stops=Stops)
def test_passes_everything_before_the_first_stop(text: str, stops: list[str]) -> None:
    passed, matched = pass_through(stops, [text])
    assert not any(stop in passed for stop in stops)
    if matched is None:
        assert passed == text
    else:
        assert text.startswith(passed + matched)


def test_holds_back_only_what_may_begin_a_stop() -> None:
    matcher = StopMatcher(["###"])
    assert matcher.feed("one #") == "one "
    assert matcher.feed("two##") == "#two"
    assert matcher.feed("# three") == ""
    assert matcher.matched == "###"
    assert matcher.feed("more") == ""


def test_an_end_gives_back_what_was_held() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the EN") == "the "
    assert matcher.flush() == "EN"
