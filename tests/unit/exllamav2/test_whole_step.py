"""What a recorded step tells the library of its batch."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")
import torch

from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs
from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes
from neuron.engines.exllamav2.steps.whole_step import (
    device_params,
    paged_forward,
    why_not,
)
from neuron.models.inspect import inspect_model
from tests.support.emulated_devices import emulated_devices
from tests.support.synthetic_model import write_synthetic
from tests.unit.exllamav2.loading.support import TINY, load, spec_of
from tests.unit.exllamav2.test_decode_graphs import AgainRecorder

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 256
WIDTH = 3


@pytest.fixture(scope="module")
def library() -> Any:
    cuda_stack.use_cpu_extension()
    return importlib.import_module("exllamav2")


def test_says_what_the_librarys_own_parameters_say(library: Any) -> None:
    lengths = torch.tensor([5, 300], dtype=torch.int32)
    table = torch.tensor([[4, 0, 0], [7, 1, 0]], dtype=torch.int32)
    own = device_params(library, 256)(lengths, table)
    theirs = library.attn.ExLlamaV2Attention.PagedParams(
        batch_size=2, block_index=table, cache_seqlens=lengths,
        max_cache_seqlen=300, page_size=256, q_len=1,
    )  # fmt: skip
    assert own.get_cache_seqlens(0) is lengths
    assert own.get_block_index(0) is table
    for name in ("batch_size", "page_size", "is_sequential", "paged"):
        assert getattr(own, name) == getattr(theirs, name)
    assert own.get_alt_rope_embed(0) is theirs.get_alt_rope_embed(0) is None
    assert own.get_rope_offsets(0) is theirs.get_rope_offsets(0) is None
    assert own.max_cache_seqlen == WIDTH * 256


def test_one_sequence_is_no_stretch_of_the_cache(library: Any) -> None:
    """The library would copy to a place that only the recorded batch had."""
    own = device_params(library, 256)(
        torch.tensor([5], dtype=torch.int32), torch.tensor([[4]], dtype=torch.int32)
    )
    assert not own.is_sequential


def config_of(
    experts: int = 0, positions: str | None = None, kind: str = "q_weight"
) -> Any:
    lm = SimpleNamespace(is_moe=experts > 0, keys={"learned_pos_emb": positions})
    weight = f"model.layers.0.mlp.experts.0.up_proj.{kind}"
    return SimpleNamespace(
        arch=SimpleNamespace(lm=lm), num_experts=experts, tensor_file_map={weight: ""}
    )


@pytest.mark.parametrize(
    ("config", "devices", "rows", "tensor_parallel", "reason"),
    [
        (config_of(), {0}, 99, False, None),
        (config_of(8), {1}, 4, False, None),
        (config_of(8, kind="qweight"), {1}, 4, False, None),
        (config_of(8), {0}, 5, False, "5 tokens among 8 experts"),
        (config_of(6), {0}, 1, False, "1 tokens among 6 experts"),
        (config_of(128), {0}, 1, False, "128 experts"),
        (config_of(8, kind="weight"), {0}, 1, False, "8 experts"),
        (config_of(positions="model.wpe"), {0}, 1, False, "looks positions up"),
        (config_of(), {0, 1}, 1, False, "2 devices"),
        (config_of(), {0, 1}, 1, True, "split over GPUs"),
    ],
)
def test_says_why_a_step_cannot_be_recorded(
    config: Any, devices: set[int], rows: int, tensor_parallel: bool, reason: str | None
) -> None:
    said = why_not(config, devices, rows, tensor_parallel=tensor_parallel)
    assert said is None if reason is None else reason in (said or "")


@pytest.mark.parametrize("cache_mode", ["fp16", "q4"])
def test_computes_what_the_librarys_own_pass_does(
    tmp_path: Path, cache_mode: str
) -> None:
    """By the library's own kernels, a batch that is filled up to a recorded shape."""
    write_synthetic(tmp_path / "m", TINY)
    info = inspect_model(tmp_path / "m", "m")
    spec = spec_of(info, cache_mode=cache_mode, cache_tokens=768)
    with emulated_devices() as backend, torch.inference_mode():
        loaded = load(backend, spec)
        model, cache, size = loaded.model, loaded.cache, loaded.config.vocab_size

        def own_pass(ids: Any, lengths: Any, table: Any) -> Any:
            params = backend.exllamav2.attn.ExLlamaV2Attention.PagedParams(
                len(ids), table, lengths, int(lengths.max()), PAGE, ids.shape[1]
            )
            return model.forward_chunk(ids, cache, attn_params=params)["logits"]

        ids = torch.arange(3, 27).view(3, 8)
        table = torch.tensor([[1], [0], [2]], dtype=torch.int32)
        own_pass(ids, torch.zeros(3, dtype=torch.int32), table)
        lengths = torch.tensor([7, 1, 8], dtype=torch.int32)
        before = [tensor.clone() for tensor in cache.all_tensors()]
        wanted = own_pass(ids[:, :2], lengths, table)
        after = [tensor.clone() for tensor in cache.all_tensors()]
        for tensor, contents in zip(cache.all_tensors(), before, strict=True):
            tensor.copy_(contents)
        spare = cache.max_seq_len // PAGE - 1
        graphs = DecodeGraphs(
            paged_forward(backend.exllamav2, model, cache, PAGE),
            AgainRecorder(),
            GraphShapes((4,), (2,)),
            torch.empty(4, 2, wanted.shape[2], dtype=torch.half),
            spare_page=spare,
        )
        found = graphs.forward(ids[:, :2], lengths, table)
        assert torch.equal(found, wanted)
        assert wanted[..., :size].isfinite().all()
        for tensor, contents in zip(cache.all_tensors(), after, strict=True):
            held = slice(None, spare * PAGE)
            assert torch.equal(tensor[:, held], contents[:, held])
