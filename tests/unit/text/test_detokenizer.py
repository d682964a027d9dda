"""Whatever comes token by token is what one decode of everything gives."""

import pytest
from hypothesis import given, settings, strategies as st

from neuron.text.detokenizer import Detokenizer
from neuron.text.tokenizer import TextTokenizer
from tests.unit.text.conftest import VOCAB

Texts = st.text(
    alphabet=st.one_of(
        st.sampled_from(list(" \n\tabcXYZ.,!'é日本😀👩‍🚀")),
        st.characters(codec="utf-8"),
    ),
    max_size=40,
)


def stream(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.feed(token) for token in ids), detokenizer.flush()]


@pytest.fixture(scope="session", params=["fallback", "byte_level"])
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, TextTokenizer)
    return chosen


@given(text=Texts)
@settings(max_examples=150, deadline=None)
def test_streams_what_a_full_decode_gives(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_bos=False)
    assert "".join(stream(Detokenizer(tokenizer), ids)) == tokenizer.decode(ids)


@given(text=Texts, cut=st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_continues_a_prompt_cut_anywhere(
    tokenizer: TextTokenizer, text: str, cut: int
) -> None:
    ids = tokenizer.encode("So " + text, add_bos=False)
    cut = min(cut, len(ids))
    before = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
    continued = "".join(stream(Detokenizer(tokenizer, ids[:cut]), ids[cut:]))
    whole = tokenizer.decode(ids)
    if cut == 0:
        assert continued == whole
    else:
        assert whole.endswith(continued)
        assert whole.startswith(before)
        assert len(continued) >= len(whole) - len(tokenizer.decode(ids[:cut]))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_byte_level_tokens_stream_like_one_decode(
    byte_level: TextTokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, VOCAB - 1), max_size=30), label="ids")
    assert "".join(stream(Detokenizer(byte_level), ids)) == byte_level.decode(ids)


@given(raw=st.binary(max_size=12))
@settings(max_examples=200, deadline=None)
def test_byte_tokens_become_code_points_as_soon_as_they_are_whole(
    fallback: TextTokenizer, raw: bytes
) -> None:
    byte_ids = {b: i for i in range(300) if (b := fallback.byte_of(i)) is not None}
    assert len(byte_ids) == 256
    parts = stream(Detokenizer(fallback), [byte_ids[b] for b in raw])
    assert "".join(parts) == raw.decode("utf-8", "replace")


def test_never_emits_half_a_code_point(byte_level: TextTokenizer) -> None:
    ids = byte_level.encode("a😺b", add_bos=False)
    parts = stream(Detokenizer(byte_level), ids)
    assert all("\ufffd" not in part for part in parts)
    assert "".join(parts) == "a😺b"


def test_special_and_unknown_tokens_have_no_text_and_cost_no_space(
    fallback: TextTokenizer,
) -> None:
    once, upon = fallback.encode("Once upon", add_bos=False)[:2]
    detokenizer = Detokenizer(fallback)
    parts = [detokenizer.feed(token) for token in (once, 2, 1_000_000, upon)]
    assert parts == ["Once", "", "", " upon"]


def test_a_continuation_keeps_its_leading_space(fallback: TextTokenizer) -> None:
    prompt = fallback.encode("Once", add_bos=True)
    upon = fallback.encode("Once upon", add_bos=True)[len(prompt)]
    assert Detokenizer(fallback, prompt).feed(upon) == " upon"


def test_after_a_turns_end_text_begins_anew(fallback: TextTokenizer) -> None:
    prompt = [*fallback.encode("Hello", add_bos=True), 2]
    once = fallback.encode("Once", add_bos=False)[0]
    assert Detokenizer(fallback, prompt).feed(once) == "Once"


def test_bytes_that_never_become_text_come_out(byte_level: TextTokenizer) -> None:
    lone = next(i for i in range(VOCAB) if byte_level.decode([i]) == "\ufffd")
    detokenizer = Detokenizer(byte_level)
    emitted = "".join(detokenizer.feed(lone) for _ in range(100))
    assert emitted == "\ufffd" * 99
    assert detokenizer.flush() == "\ufffd"


def test_visible_special_tokens_are_spelt_out(fallback: TextTokenizer) -> None:
    once, upon = fallback.encode("Once upon", add_bos=False)[:2]
    detokenizer = Detokenizer(fallback, visible={2})
    parts = [detokenizer.feed(token) for token in (1, once, 2, upon, 2)]
    assert parts == ["", "Once", "</s>", " upon", "</s>"]


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_visible_tokens_stand_between_what_others_give(
    byte_level: TextTokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, VOCAB - 1), max_size=30), label="ids")
    end = byte_level.added_tokens["<|end|>"]
    expected, part = "", list[int]()
    for token in [*ids, end]:
        if token == end:
            expected += byte_level.decode(part) + "<|end|>"
            part = []
        else:
            part.append(token)
    streamed = stream(Detokenizer(byte_level, visible={end}), [*ids, end])
    assert "".join(streamed) == expected
