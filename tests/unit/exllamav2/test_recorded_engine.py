"""The engine with recorded steps, by the library's own kernels on the CPU.

All of it but the recording: steps are done again instead.
"""

from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.base import LoadSpec, SamplingParams
from neuron.engines.exllamav2.engine import ExLlamaV2Engine
from neuron.engines.exllamav2.steps import decoding, gemm_tuning
from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs
from neuron.protocol.types import LoadOptions
from tests.support.emulated_devices import emulated_devices
from tests.unit.exllamav2.test_decode_graphs import AgainRecorder
from tests.unit.exllamav2.test_driver import story
from tests.unit.reference.support import BUNDLED, generate, info_of, loaded

pytestmark = pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sequences and tokens of each, in every recorded step that is done."""
    done: list[tuple[int, int]] = []
    forward = DecodeGraphs.forward

    def counted(graphs: DecodeGraphs, ids: Any, *more: Any) -> Any:
        done.append(tuple(ids.shape))
        return forward(graphs, ids, *more)

    monkeypatch.setattr(DecodeGraphs, "forward", counted)
    monkeypatch.setattr(decoding, "CudaRecorder", lambda *_: AgainRecorder())
    monkeypatch.setenv("NEURON_EXLLAMAV2_WARMUP", "off")
    monkeypatch.setattr(gemm_tuning, "_CALLS", 1)  # nothing here depends on the time
    return done


@pytest.mark.parametrize("drafts", [False, True])
def test_it_says_what_the_cpu_engine_says(
    steps: list[tuple[int, int]], drafts: bool
) -> None:
    asked = [
        story("Once upon a time", "a", 9),
        story("The dog", "b", 6,
              sampling=SamplingParams(temperature=0, repetition_penalty=1.2)),
    ]  # fmt: skip
    info = info_of(BUNDLED)
    options = LoadOptions(draft="d", draft_tokens=3) if drafts else LoadOptions()
    spec = LoadSpec(
        info, 256, 2, "fp16", 512, (0,), options, draft=info if drafts else None
    )
    with emulated_devices():
        engine = ExLlamaV2Engine()
        engine.load(spec, lambda *_: None, lambda: False)
        found = generate(engine, *asked)
        stats = engine.stats()
        engine.unload()
    with loaded(BUNDLED) as reference:
        expected = generate(reference, *asked)
    for name, output in expected.items():
        assert found[name].tokens == output.tokens
    if drafts:
        assert {count for _, count in steps} == {4, 2, 1}  # checked, guessed
        assert stats.accepted_draft_tokens > 6
    else:
        assert set(steps) <= {(2, 1), (1, 1)}
        assert len(steps) >= 9
