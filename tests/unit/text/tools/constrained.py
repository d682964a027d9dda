"""Models whose every token is a byte or a marker, and what they may write."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from neuron.text.detokenizer import Detokenizer
from neuron.text.grammar import GrammarCompiler
from neuron.text.grammar_match import GrammarConstraint
from neuron.text.output import OutputSyntax
from neuron.text.reasoning import ReasoningSyntax
from neuron.text.tokenizer import TextTokenizer
from neuron.text.tools.spec import ToolSpec
from tests.unit.text.tools.support import BY_NAME, Reply, parse

EOS: Final = "<|end|>"
LIMIT: Final = 4000
"""Tokens of a reply: each is a byte here."""

TOKENS = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen_xml": ("<tool_call>", "</tool_call>"),
    "llama_json": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
    "mistral_new": ("[TOOL_CALLS]", "[ARGS]"),
    "cohere_new": ("<|START_ACTION|>", "<|END_ACTION|>"),
    "phi_token": ("<|tool_call|>", "<|/tool_call|>"),
    "internlm": ("<|action_start|>", "<|plugin|>", "<|action_end|>"),
}
_DEEPSEEK = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip
TOKENS |= dict.fromkeys(("deepseek_v3", "deepseek_v31"), _DEEPSEEK)


def schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


@dataclass
class Model:
    """What a constraint needs of one."""

    text: TextTokenizer
    compiler: GrammarCompiler
    eos: int

    def syntax(
        self, format_: str, reasoning: ReasoningSyntax | None = None
    ) -> OutputSyntax:
        tools = BY_NAME[format_]
        known = self.text.added_tokens
        markers = (*tools.markers, *tools.tokens)
        tokens = {marker: known[marker] for marker in markers if marker in known}
        return OutputSyntax(reasoning, tools, tokens=tokens)


def model(root: Path, tokens: Sequence[str]) -> Model:
    """Every byte is a token, and so are `tokens`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    known.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known.decoder = decoders.ByteLevel()
    known.add_special_tokens([AddedToken(t, special=True) for t in (EOS, *tokens)])
    folder = root / str(abs(hash(tuple(tokens))))
    folder.mkdir(exist_ok=True)
    known.save(str(folder / "tokenizer.json"))
    text = TextTokenizer.load(folder)
    eos = text.added_tokens[EOS]
    return Model(text, GrammarCompiler(folder, [eos], known.get_vocab_size()), eos)


def accepts(constraint: GrammarConstraint, ids: Sequence[int]) -> bool:
    for token in ids:
        if token not in allowed(constraint):
            return False
        constraint.accept(token)
    return constraint.may_end()


def allowed(constraint: GrammarConstraint) -> list[int]:
    bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def wander(constraint: GrammarConstraint, eos: int, seed: int) -> list[int]:
    """Tokens of a model that chooses blindly, and half the time ends where it may."""
    chance = random.Random(seed)
    ids: list[int] = []
    while len(ids) < LIMIT:
        choices = allowed(constraint)
        if eos in choices and (len(choices) == 1 or chance.random() < 0.5):
            return ids
        token = chance.choice([choice for choice in choices if choice != eos])
        constraint.accept(token)
        ids.append(token)
    raise AssertionError("the grammar does not come to an end")


def read(
    model: Model, ids: Sequence[int], output: OutputSyntax, tools: Sequence[ToolSpec]
) -> Reply:
    detokenizer = Detokenizer(model.text, visible=output.visible_tokens)
    chunks = [*(detokenizer.feed(token) for token in ids), detokenizer.flush()]
    return parse(chunks, output, tools)
