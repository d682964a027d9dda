"""The small readers: custom tools' inputs, thoughts' tokens, scores, names."""

import itertools
import json

import pytest
from hypothesis import given, settings, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.dialects.base import Json
from services.gateway.dialects.responses.custom_input import InputReader
from services.gateway.dialects.responses.scores import TextScores
from services.gateway.dialects.responses.thought import told
from services.gateway.dialects.responses.tool_names import ToolName, ToolNames
from services.gateway.dialects.sealing import sealed, unsealed
from tests.unit.services.dialects.responses.chunks import cut_up


@given(st.data(), st.text(), st.booleans(), st.sampled_from(["", " ", "\n "]))
@settings(deadline=None)
def test_a_custom_tools_input_is_read_in_any_pieces(
    data: st.DataObject, text: str, ascii_: bool, space: str
) -> None:
    word = json.dumps(text, ensure_ascii=ascii_)
    arguments = f'{space}{{{space}"input"{space}:{space}{word}{space}}}'
    reader = InputReader()
    pieces = [
        reader.feed(piece) for piece in data.draw(st.composite(cut_up)(arguments))
    ]
    assert "".join(pieces) + reader.finish() == text == reader.text


@given(st.text(), st.integers(0, 99))
def test_what_was_told_of_an_input_stays_true(text: str, cut: int) -> None:
    arguments = json.dumps({"input": text})
    reader = InputReader()
    assert text.startswith(reader.feed(arguments[:cut]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"text": "a"}', '{"text": "a"}'),
        ('{"other": 1, "input": "a"}', "a"),
        ('{"input": 3}', '{"input": 3}'),
        ("plain", "plain"),
        ('{"input": "\\ud83d', ""),
        ('{"input": "\\ud83d!"}', "\ufffd!"),
        ('{"input": "\\ude00"}', "\ufffd"),
        ('{"input": "a\\/b"} ', "a/b"),
        ("", ""),
    ],
)
def test_odd_arguments_are_told_all_the_same(arguments: str, text: str) -> None:
    reader = InputReader()
    assert reader.feed(arguments) + reader.finish() == text


@given(st.text())
def test_a_sealed_thought_opens_again(thought: str) -> None:
    assert unsealed(sealed(thought)) == thought
    item = {"type": "reasoning", "summary": [], "encrypted_content": sealed(thought)}
    assert told(item, "input[0]", []) == thought


def test_others_tokens_are_left_out_aloud() -> None:
    warnings: list[str] = []
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    assert told(item, "input[0]", warnings) == ""
    assert warnings == ["input[0].encrypted_content: not made here, and left out"]


@pytest.mark.parametrize("token", ["cortex1:!", "cortex1:/w==", "cortex1:gA"])
def test_a_damaged_token_is_refused_by_its_place(token: str) -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": token}
    with pytest.raises(ApiError) as refused:
        told(item, "input[0]", [])
    assert refused.value.param == "input[0].encrypted_content"


def score(spelling: bytes) -> Json:
    return {"token": repr(spelling), "logprob": -1.0, "bytes": list(spelling)}


@given(st.data(), st.text(alphabet="ab\u20ac ", min_size=1, max_size=12))
@settings(deadline=None)
def test_each_token_of_the_text_is_scored_once(data: st.DataObject, text: str) -> None:
    raw = text.encode()
    cuts = sorted(set(data.draw(st.lists(st.integers(1, len(raw)), max_size=5))))
    bounds = [0, *cuts, len(raw)]
    tokens = [score(raw[a:b]) for a, b in itertools.pairwise(bounds) if a < b]
    scores = TextScores()
    scores.add([score(b"<think>"), score(b"hm"), score(b"</think>\n\n"), *tokens])
    assert len(scores.take("hm")) == 1
    pieces = data.draw(st.composite(cut_up)(text))
    found = [token for piece in pieces for token in scores.take(piece)]
    assert found == tokens


def test_scores_are_not_lost_where_the_text_is_not_found() -> None:
    scores = TextScores()
    scores.add([score(b"\xff"), score(b"a")])
    assert [s["token"] for s in scores.take("\ufffda")] == ["b'\\xff'", "b'a'"]


def test_names_that_collide_are_kept_apart() -> None:
    names = ToolNames()
    first = names.add(ToolName("b__c", "a"))
    second = names.add(ToolName("c", "a__b"))
    assert first == "a__b__c"
    assert second is not None
    assert second != first
    assert names.tool(second) == ToolName("c", "a__b")
    assert names.flat("a__b", "c") == second
    assert names.add(ToolName("c", "a__b")) is None


def test_a_choice_needs_no_namespace_where_the_name_is_enough() -> None:
    names = ToolNames()
    flat = names.add(ToolName("find", "crm"))
    assert names.chosen(None, "find") == flat == names.chosen("crm", "find")
    names.add(ToolName("find", "erp"))
    assert names.chosen(None, "find") is None
    assert names.chosen("crm", "lost") is None


def test_a_call_of_a_tool_that_is_gone_keeps_its_name() -> None:
    assert ToolNames().flat("crm", "find") == "crm__find"
    assert ToolNames().tool("crm__find") == ToolName("crm__find")
