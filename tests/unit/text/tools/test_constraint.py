"""Whatever a constrained model writes is a call of a tool that it may call."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from neuron.text.detokenizer import Detokenizer
from neuron.text.grammar import GrammarCompiler
from neuron.text.grammar_match import GrammarConstraint
from neuron.text.output import OutputSyntax
from neuron.text.tokenizer import TextTokenizer
from neuron.text.tools.constraint import constraint_for
from neuron.text.tools.spec import NamedTool, ToolChoice, ToolSpec
from tests.unit.text.tools.support import BY_NAME, WRITERS, Reply, parse

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


UNIT = {"enum": ["C", "F"]}
DAYS = {"type": "integer", "minimum": 0, "maximum": 99}
TOOLS = [
    ToolSpec("weather", "", schema({"unit": UNIT, "days": DAYS}, "unit")),
    ToolSpec("stop", "", schema({})),
    ToolSpec("set", "", {
        **schema({"on": {"type": "boolean"}, "list": {"$ref": "#/$defs/few"}}, "list"),
        "$defs": {"few": {"type": "array", "items": DAYS, "maxItems": 3}},
    }),
]  # fmt: skip
BY_TOOL = {tool.name: tool for tool in TOOLS}


@dataclass
class Model:
    """What a constraint needs of one."""

    text: TextTokenizer
    compiler: GrammarCompiler
    eos: int

    def syntax(self, format_: str) -> OutputSyntax:
        return OutputSyntax(
            None, BY_NAME[format_], tokens={
                token: id_ for token, id_ in self.text.added_tokens.items()
                if token != EOS
            },
        )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


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


def read(model: Model, ids: Sequence[int], output: OutputSyntax) -> Reply:
    detokenizer = Detokenizer(model.text, visible=output.visible_tokens)
    chunks = [*(detokenizer.feed(token) for token in ids), detokenizer.flush()]
    return parse(chunks, output, TOOLS)


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("parallel", [True, False])
def test_whatever_is_written_is_a_valid_call(
    layout: str, parallel: bool, root: Path
) -> None:
    format_ = WRITERS[layout][0]
    of = model(root, TOKENS.get(layout, ()))
    syntax = of.syntax(format_)
    spec = constraint_for(syntax, TOOLS, "required", parallel)
    assert spec is not None
    several = 0
    for seed in range(6):
        ids = wander(of.compiler.compile(spec), of.eos, seed)
        reply = read(of, ids, syntax)
        assert (reply.content, reply.unparsed, reply.incomplete) == ("", 0, [])
        assert reply.calls
        for name, arguments in reply.parsed():
            jsonschema.validate(arguments, BY_TOOL[name].parameters)
        several += len(reply.calls) > 1
    assert bool(several) is parallel


@pytest.mark.parametrize("layout", WRITERS)
def test_what_the_model_would_write_anyway_is_allowed(layout: str, root: Path) -> None:
    format_, writer = WRITERS[layout]
    of = model(root, TOKENS.get(layout, ()))
    spec = constraint_for(of.syntax(format_), TOOLS, "required")
    assert spec is not None
    unit = {"unit": "C", "days": 7}
    if layout != "pythonic":
        assert accepts(
            of.compiler.compile(spec),
            of.text.encode(writer([("weather", unit), ("stop", {})]), add_bos=False),
        )
    for text in ("Hello", writer([("other", {})]), writer([("weather", {"days": 7})])):
        ids = of.text.encode(text, add_bos=False)
        assert not accepts(of.compiler.compile(spec), ids)


def test_python_is_constrained_to_values_that_are_json(root: Path) -> None:
    of = model(root, ())
    spec = constraint_for(of.syntax("pythonic"), TOOLS, "required")
    assert spec is not None
    text = '[weather(unit="C", days=7), stop(), set(list=[1], on=true)]'
    assert accepts(of.compiler.compile(spec), of.text.encode(text, add_bos=False))


def test_tags_hold_text_without_quotes(root: Path) -> None:
    either = {"type": ["string", "null"]}
    write = ToolSpec(
        "write", "", schema({"text": {"type": "string"}, "n": DAYS, "to": either})
    )
    of = model(root, TOKENS["qwen_xml"])
    spec = constraint_for(of.syntax("qwen_xml"), [write], "required")
    assert spec is not None
    text = WRITERS["qwen_xml"][1]([
        ("write", {"text": 'a "b"\n</p> é', "n": 1, "to": "me"})
    ])  # fmt: skip
    assert accepts(of.compiler.compile(spec), of.text.encode(text, add_bos=False))


def test_tags_hold_only_the_listed_values(root: Path) -> None:
    unit = {"unit": {"type": "string", "enum": ["C", "F"]}, "v": {"const": "x"}}
    of = model(root, TOKENS["qwen_xml"])
    tools = [ToolSpec("f", "", schema(unit, "unit", "v"))]
    spec = constraint_for(of.syntax("qwen_xml"), tools, "required")
    assert spec is not None
    for value, fits in [("C", True), ("K", False)]:
        text = WRITERS["qwen_xml"][1]([("f", {"unit": value, "v": "x"})])
        ids = of.text.encode(text, add_bos=False)
        assert accepts(of.compiler.compile(spec), ids) is fits


@pytest.mark.parametrize("layout", WRITERS)
def test_a_named_tool_is_called_once(layout: str, root: Path) -> None:
    of = model(root, TOKENS.get(layout, ()))
    syntax = of.syntax(WRITERS[layout][0])
    spec = constraint_for(syntax, TOOLS, NamedTool("stop"))
    assert spec is not None
    reply = read(of, wander(of.compiler.compile(spec), of.eos, 1), syntax)
    assert reply.parsed() == [("stop", {})]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_what_need_not_be_called_is_not_enforced(choice: ToolChoice) -> None:
    assert constraint_for(OutputSyntax(None, BY_NAME["hermes"]), TOOLS, choice) is None


def test_what_cannot_be_enforced_is_refused() -> None:
    syntax = OutputSyntax(None, BY_NAME["pythonic"])
    with pytest.raises(ValueError, match="there is no tool 'other'"):
        constraint_for(syntax, TOOLS, NamedTool("other"))
    with pytest.raises(ValueError, match="no tools to choose from"):
        constraint_for(syntax, [], "required")
    spaced = ToolSpec("f", "", schema({"a b": DAYS}))
    with pytest.raises(ValueError, match="'a b'"):
        constraint_for(syntax, [spaced], "required")
