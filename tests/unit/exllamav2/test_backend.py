"""The gate that exllamav2 is imported through."""

import sys

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.backend import load_backend

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]


def test_everything_is_imported_and_again() -> None:
    backend = load_backend()
    assert backend.exllamav2.generator.ExLlamaV2DynamicGenerator
    assert backend.attention.name == "triton"
    assert load_backend() == backend


def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exllamav2", None)
    with pytest.raises(EngineError, match="exllamav2 cannot be imported") as failed:
        load_backend()
    assert failed.value.code == "engine_unavailable"


def test_a_library_without_paged_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its generator would fail an assertion, or compute without a mask."""
    attn = load_backend().exllamav2.attn
    monkeypatch.setattr(attn, "has_flash_attn_with_paged", False)
    with pytest.raises(EngineError, match="does not take triton") as failed:
        load_backend()
    assert failed.value.code == "engine_unavailable"
