"""A model's syntax is told by its template, else by its vocabulary."""

import pytest
from tokenizers import AddedToken, Tokenizer, models

from neuron.text.output import recognise
from neuron.text.tokenizer import TextTokenizer


def tokenizer(*tokens: str, plain: tuple[str, ...] = ()) -> TextTokenizer:
    known = Tokenizer(models.BPE({"a": 0}, []))
    known.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    known.add_tokens([AddedToken(token, special=False) for token in plain])
    return TextTokenizer(known, {})


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (("<tool_call>",), "hermes"),
        (("[TOOL_CALLS]",), "mistral"),
        (("<|python_tag|>",), "llama_json"),
        (("<|START_ACTION|>",), "cohere"),
        (("<|CHATBOT_TOKEN|>",), "cohere"),
        (("<｜tool▁calls▁begin｜>",), "deepseek_v3"),
        (("<|tool_call|>",), "phi"),
        (("<|action_start|>",), "internlm"),
        (("<|observation|>",), "glm"),
        (("<|observation|>", "<arg_key>"), "generic"),
        (("<|im_start|>",), "generic"),
        ((), "generic"),
    ],
)
def test_without_a_template_the_tokens_tell(tokens: tuple[str, ...], name: str) -> None:
    found = recognise(None, tokenizer(*tokens))
    assert found.tools is not None
    assert found.tools.name == name
    assert found.tools_reason


def test_the_template_weighs_more_than_the_tokens() -> None:
    found = recognise("…<tool_call>…", tokenizer("[TOOL_CALLS]"))
    assert found.tools is not None
    assert found.tools.name == "hermes"
    assert found.tools_reason == "the chat template has <tool_call>"


@pytest.mark.parametrize(
    ("template", "tokens", "start"),
    [
        ("{{ '<think>\\n' }}", (), "<think>"),
        ("{{ content.split('</think>')[-1] }}", (), "<think>"),
        ("no thought", ("[THINK]", "[/THINK]"), "[THINK]"),
        (None, ("<|START_THINKING|>", "<|END_THINKING|>"), "<|START_THINKING|>"),
        ("no thought", ("<think>",), None),
        (None, (), None),
    ],
)
def test_markers_of_thoughts(
    template: str | None, tokens: tuple[str, ...], start: str | None
) -> None:
    found = recognise(template, tokenizer(*tokens)).reasoning
    assert (found and found.start) == start
    if found is not None:
        assert found.reason


def test_markers_that_are_tokens_must_be_spelt_out() -> None:
    known = tokenizer("<|im_end|>", "<tool_call>", "<think>", plain=("</think>",))
    found = recognise("<think> <tool_call>", known)
    ids = known.added_tokens
    assert found.visible_tokens == {
        ids["<tool_call>"], ids["<think>"], ids["</think>"]
    }  # fmt: skip
    without = found.without_tools()
    assert without.tools is None
    assert without.visible_tokens == {ids["<think>"], ids["</think>"]}
    assert found.reasoning is not None
    assert found.reasoning.special_tokens == {"<|im_end|>", "<tool_call>"}
