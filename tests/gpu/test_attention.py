"""Attention on a real GPU: by the cases as interpreted, and what only a GPU shows."""

import pytest

from tests.support import cuda_stack
from tests.unit.exllamav2.attention.cases import (
    EDGES,
    LONG,
    MASKS,
    MODELS,
    WITHOUT_PAGES,
    Case,
)

cuda_stack.require("torch", "triton")

import torch

from neuron.engines.exllamav2.attention import launch
from neuron.engines.exllamav2.attention.problem import Cache
from tests.unit.exllamav2.attention import checks
from tests.unit.exllamav2.attention.reference import Call, expected_result

PROMPTS = (
    Case((0,), queries=300, heads=8, kv_heads=2, head_dim=128, page=256),
    Case((500,), queries=200, heads=4, kv_heads=2, head_dim=128, page=256),
    Case((500,), queries=100, head_dim=96, page=256),
    Case((300,), queries=100, head_dim=80, page=256, appends=False),
    Case((300,), queries=70, window=(100, 100), head_dim=256, page=256),
    Case((300, 20), queries=80, page=256, spare_columns=2),
    Case((1500,), queries=60, heads=8, kv_heads=2, head_dim=128, page=256),
    Case((100,), queries=100, page=32),
    Case((300,), queries=60, softcap=30.0, page=256),
)


@pytest.mark.parametrize(
    "case",
    [*MODELS, *MASKS, *EDGES, *LONG, *WITHOUT_PAGES, Case((90, 4), dtype="bfloat16")],
    ids=str,
)
def test_our_kernels(case: Case) -> None:
    checks.agrees(case, "launch", "cuda")


@pytest.mark.parametrize("case", PROMPTS, ids=str)
def test_a_chunk_of_a_prompt(case: Case) -> None:
    checks.agrees_as_called(case, "cuda")


@pytest.mark.parametrize(
    "case", [case for case in WITHOUT_PAGES if not case.appends], ids=str
)
def test_a_layer_without_pages(case: Case) -> None:
    checks.agrees_without_cache(case, "cuda")


def test_a_captured_step_follows_lengths_and_pages() -> None:
    """Recorded on one set of sequences, replayed on others of the same shapes."""
    cases = [Case((300, 10), page=256), Case((257, 700), page=256)]
    calls = [Call.of(case) for case in cases]
    wanted = [expected_result(call) for call in calls]
    first, second = (call.on("cuda") for call in calls)
    assert second.cache.table is not None
    # The larger cache and table serve both.
    table = torch.zeros_like(second.cache.table)
    cache = Cache(second.cache.keys.clone(), second.cache.values.clone(), table)
    query, keys, values = (torch.empty_like(t) for t in _inputs(second))
    lengths = torch.zeros_like(second.lengths)

    def step() -> torch.Tensor:
        launch.append(keys, values, cache, lengths)
        return launch.attend(query, cache, lengths, 1, first.mask)

    step()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    for call, expected in zip((first, second), wanted, strict=True):
        for target, source in zip((query, keys, values), _inputs(call), strict=True):
            target.copy_(source)
        assert call.cache.table is not None
        pages, width = call.cache.keys.shape[0], call.cache.table.shape[1]
        cache.keys[:pages], cache.values[:pages] = call.cache.keys, call.cache.values
        table.zero_()
        table[:, :width] = call.cache.table
        lengths.copy_(call.lengths)
        graph.replay()
        torch.testing.assert_close(
            result.cpu().double(), expected, rtol=2e-3, atol=2e-3
        )


def _inputs(call: Call) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert call.keys is not None
    assert call.values is not None
    return call.query, call.keys, call.values
