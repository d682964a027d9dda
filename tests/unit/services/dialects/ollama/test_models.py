"""Models as Ollama's clients see them."""

from datetime import UTC, datetime, timedelta

from neuron.protocol.types import ModelState
from services.gateway.dialects.ollama.models import listed, rfc3339, running, shown
from services.schema import ModelView, Replica

VIEW = ModelView(
    id="org/qwen2-7b",
    format="exl2",
    bpw=4.25,
    architecture="Qwen2ForCausalLM",
    context=32768,
    parameters=7_615_616_512,
    weight_bytes=4_250_000_000,
    capabilities=["chat", "completions", "reasoning", "structured_output", "tools"],
    replicas=[
        Replica(node="a", state=ModelState.READY, memory_mb=100, max_seq_len=4096),
        Replica(node="b", state=ModelState.READY, memory_mb=50, max_seq_len=8192),
        Replica(node="c", memory_mb=None),
    ],
)
DETAILS = {
    "parent_model": "",
    "format": "exl2",
    "family": "qwen2",
    "families": ["qwen2"],
    "parameter_size": "7.6B",
    "quantization_level": "4.25bpw",
}


def test_a_model_is_listed_with_its_size_and_kind() -> None:
    entry = listed(VIEW, "an-alias", 0)
    digest = entry.pop("digest")
    assert len(digest) == 64
    assert entry == {
        "name": "an-alias",
        "model": "an-alias",
        "modified_at": "1970-01-01T00:00:00Z",
        "size": 4_250_000_000,
        "details": DETAILS,
    }


def test_a_digest_is_the_models_own_and_stays() -> None:
    same = VIEW.model_copy(update={"running": 3, "replicas": []})
    other = VIEW.model_copy(update={"weight_bytes": 1})
    assert listed(same, "an-alias", 5)["digest"] == listed(VIEW, "m", 0)["digest"]
    assert listed(other, "m", 0)["digest"] != listed(VIEW, "m", 0)["digest"]


def test_a_running_model_tells_its_memory_and_when_it_goes() -> None:
    entry = running(VIEW, 60, on_gpu=frozenset({"a"}))
    mib = 1024 * 1024
    assert (entry["size"], entry["size_vram"]) == (150 * mib, 100 * mib)
    assert entry["expires_at"] == "1970-01-01T00:01:00Z"
    assert entry["context_length"] == 8192


def test_what_is_shown_says_what_the_model_can() -> None:
    assert shown(VIEW, 0) == {
        "modified_at": "1970-01-01T00:00:00Z",
        "details": DETAILS,
        "model_info": {
            "general.architecture": "qwen2",
            "general.basename": "org/qwen2-7b",
            "general.parameter_count": 7_615_616_512,
            "qwen2.context_length": 8192,
        },
        "capabilities": ["completion", "tools", "thinking"],
    }


def test_what_is_not_known_is_left_empty() -> None:
    unknown = ModelView(id="m")
    assert listed(unknown, "m", 0)["size"] == 0, "some clients take nothing else"
    assert shown(unknown, 0)["model_info"] == {
        "general.architecture": "",
        "general.basename": "m",
    }
    details = listed(unknown, "m", 0)["details"]
    assert not any(details.values())


def test_never_is_farther_off_than_anybody_waits() -> None:
    for epoch in (None, 1e300):
        never = datetime.fromisoformat(rfc3339(epoch))
        assert never - datetime.now(UTC) > timedelta(days=365 * 200)
