"""Real tokens under real grammars: what comes out always is what was asked for."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from neuron.engines.base import GenerationRequest, SamplingParams
from neuron.engines.reference.engine import ReferenceEngine
from neuron.text.detokenizer import Detokenizer
from neuron.text.grammar import GrammarCompiler, GrammarSpec
from neuron.text.tokenizer import TextTokenizer
from tests.unit.reference.support import BUNDLED, Output, Outputs, generate, loaded

PROMPT_TEXT = "Once upon a time there was a JSON document:"
TEMPERATURES = (0.0, 1.0, 2.0)
MOST = 220
Schema = dict[str, Any]


@pytest.fixture(scope="module")
def engine() -> Iterator[ReferenceEngine]:
    with loaded(BUNDLED, slots=8) as engine:
        yield engine


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(BUNDLED, [2], 8599)
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(BUNDLED)


class Writer:
    """Makes requests, and texts of what became of them."""

    def __init__(self, compiler: GrammarCompiler, tokenizer: TextTokenizer) -> None:
        self._compiler = compiler
        self._tokenizer = tokenizer
        self._prompt = tuple(tokenizer.encode(PROMPT_TEXT, add_bos=True))

    def request(
        self, name: str, spec: GrammarSpec | None, temperature: float, **fields: Any
    ) -> GenerationRequest:
        sampling = SamplingParams(temperature=temperature, seed=len(name))
        return GenerationRequest(
            name,
            self._prompt,
            MOST,
            sampling,
            stop_ids=frozenset({2}),
            constraint=None if spec is None else self._compiler.compile(spec),
            **fields,
        )

    def text(self, output: Output) -> str:
        detokenizer = Detokenizer(self._tokenizer, self._prompt)
        parts = [detokenizer.feed(token) for token in output.tokens]
        return "".join(parts) + detokenizer.flush()


@pytest.fixture(scope="module")
def writer(compiler: GrammarCompiler, tokenizer: TextTokenizer) -> Writer:
    return Writer(compiler, tokenizer)


def words() -> st.SearchStrategy[str]:
    return st.text('abcdeé "\\\n日', min_size=1, max_size=5)


def leaves() -> st.SearchStrategy[Schema]:
    small = st.integers(-20, 20)
    return st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
        st.builds(
            lambda low, size: {
                "type": "integer",
                "minimum": low,
                "maximum": low + size,
            },
            small,
            st.integers(0, 2000),
        ),
        st.builds(
            lambda low, size: {
                "type": "string",
                "minLength": low,
                "maxLength": low + size,
            },
            st.integers(0, 2),
            st.integers(0, 3),
        ),
        st.builds(
            lambda values: {"enum": values},
            st.lists(st.one_of(words(), small, st.none()), min_size=1, max_size=3),
        ),
        st.builds(lambda value: {"const": value}, st.one_of(words(), small)),
        st.sampled_from(
            [
                {"type": "string", "pattern": "^[a-c]{2,4}$"},
                {"type": "string", "format": "date"},
                {"type": ["string", "null"], "maxLength": 2},
            ]
        ),
    )


def objects(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    @st.composite
    def build(draw: st.DrawFn) -> Schema:
        names = draw(st.lists(words(), min_size=1, max_size=3, unique=True))
        required = [name for name in names if draw(st.booleans())]
        return {
            "type": "object",
            "properties": {name: draw(inner) for name in names},
            "required": required,
            "additionalProperties": False,
        }

    return build()


def containers(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        objects(inner),
        st.builds(
            lambda items, low, size: {
                "type": "array",
                "items": items,
                "minItems": low,
                "maxItems": low + size,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 1),
        ),
        st.builds(
            lambda first: {"type": "array", "prefixItems": first, "items": False},
            st.lists(inner, min_size=1, max_size=2),
        ),
        st.builds(
            lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=2)
        ),
        st.builds(
            lambda part: {"$defs": {"part": part}, "$ref": "#/$defs/part"}, inner
        ),
    )


def nested(schema: Schema) -> Schema:
    """References are to the root: definitions are gathered there."""
    found: dict[str, Schema] = {}

    def gather(value: Any) -> Any:
        if isinstance(value, list):
            return [gather(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$defs" in value:
            name = f"part{len(found)}"
            found[name] = {}
            found[name] = gather(value["$defs"]["part"])
            return {"$ref": f"#/$defs/{name}"}
        return {key: gather(each) for key, each in value.items()}

    root: Schema = gather(schema)
    return root | {"$defs": found} if found else root


SCHEMAS = st.recursive(leaves(), containers, max_leaves=4).map(nested)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schema=SCHEMAS)
def test_always_parses_and_validates(
    engine: ReferenceEngine, writer: Writer, schema: Schema
) -> None:
    spec = GrammarSpec("json_schema", schema)
    outputs = generate(
        engine,
        *(writer.request(str(each), spec, each) for each in TEMPERATURES),
    )
    for output in outputs.values():
        assert output.error is None
        if output.reason == "length":
            # A large schema needs more than fits into the bundled model's context.
            assert len(output.tokens) == MOST
            continue
        jsonschema.validate(json.loads(writer.text(output)), schema)


ORDER: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3},
        "next": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]},
    },
    "required": ["name", "tags", "next"],
    "additionalProperties": False,
    "$defs": {
        "leaf": {
            "type": "object",
            "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["size"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_in_any_company(
    engine: ReferenceEngine, writer: Writer, temperature: float
) -> None:
    spec = GrammarSpec("json_schema", ORDER)
    alone = generate(engine, writer.request("a", spec, temperature, top_logprobs=3))[
        "a"
    ]
    assert alone.reason == "stop"
    jsonschema.validate(json.loads(writer.text(alone)), ORDER)
    others = [GrammarSpec("json_object"), GrammarSpec("regex", "(no )*!"), None, spec]
    outputs = Outputs()
    for index, other in enumerate(others):
        engine.submit(writer.request("b" * (index + 2), other, 1.0))
        outputs.step(engine)
    engine.submit(writer.request("a", spec, temperature, top_logprobs=3))
    outputs.run(engine)
    assert outputs["a"].tokens == alone.tokens
    assert outputs["a"].logprobs == alone.logprobs


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("spec", "pattern"),
    [
        (GrammarSpec("regex", r"[a-z]{3,9}@(home|work)\.org"), None),
        (GrammarSpec("regex", r"(Tim|Lily) (went|ran) home\."), None),
        (
            GrammarSpec("lark", 'start: "(" start ")" | /[0-9]{1,3}/'),
            r"\(*[0-9]{1,3}\)*",
        ),
        (
            GrammarSpec("json_schema", {"const": "x"}, after="dog"),
            r'(?s:.*?)dog[ \n]{0,4}"x"',
        ),
    ],
)
def test_other_grammars(
    engine: ReferenceEngine,
    writer: Writer,
    spec: GrammarSpec,
    pattern: str | None,
    temperature: float,
) -> None:
    output = generate(engine, writer.request("a", spec, temperature))["a"]
    text = writer.text(output)
    if output.reason == "stop":
        assert re.fullmatch(pattern or str(spec.source), text)
        assert text.count("(") == text.count(")")
    else:
        assert spec.kind == "lark" or spec.after


def test_json_object_is_json_from_the_first_character_to_the_last(
    engine: ReferenceEngine, writer: Writer
) -> None:
    spec = GrammarSpec("json_object")
    outputs = generate(
        engine,
        *(writer.request("a" * (i + 1), spec, 0.3 * i) for i in range(8)),
    )
    complete = [output for output in outputs.values() if output.reason == "stop"]
    for output in complete:
        assert isinstance(json.loads(writer.text(output)), dict)
    assert all(writer.text(output)[0] == "{" for output in outputs.values())
