"""Layers split over devices by the library's own code, on emulated ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron.protocol.types import LoadOptions
from tests.support import cuda_stack
from tests.support.synthetic_model import write_synthetic
from tests.unit.reference import support

cuda_stack.require("torch", "triton", "exllamav2")

import torch

from tests.support.emulated_devices import GIB, OnOneMemory, emulated_devices
from tests.unit.exllamav2.loading.support import TINY, info_of, load, spec_of

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

SHAPE = replace(TINY, hidden=512, intermediate=768, head_dim=64)
BOUNDS = {"fp16": 0.005, "q8": 0.03}
"""Of logits' relative error, by cache mode: three times what it is."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "tiny"
    write_synthetic(folder, SHAPE)
    return folder


@pytest.mark.parametrize("mode", BOUNDS)
def test_split_layers_compute_what_whole_ones_do(folder: Path, mode: str) -> None:
    """A prompt in two parts, over pages out of order."""
    prompt = list(range(3, 48))
    found = split_logits(folder, mode, prompt[:40], prompt[40:])
    wanted = support.logits_of(folder, prompt, [len(prompt)], range(8))[40:]
    off = np.linalg.norm(found[:, : wanted.shape[1]] - wanted)
    assert off <= BOUNDS[mode] * np.linalg.norm(wanted)


def split_logits(
    folder: Path, mode: str, read: Sequence[int], chunk: Sequence[int]
) -> Any:
    """After each token of the chunk, which follows what was but read."""
    spec = spec_of(
        info_of(folder),
        options=LoadOptions(tensor_parallel=True),
        devices=(0, 1),
        cache_mode=mode,
    )
    with (
        emulated_devices([GIB] * 2) as backend,
        torch.inference_mode(),
        OnOneMemory(),
    ):
        loaded = load(backend, spec)
        assert len(loaded.model.tp_context.all_devices()) == 2

        def run(tokens: Sequence[int], before: int, **fields: Any) -> Any:
            params = backend.exllamav2.attn.ExLlamaV2Attention.PagedParams(
                batch_size=1,
                block_index=torch.tensor([[1, 0]], dtype=torch.int),
                cache_seqlens=torch.tensor([before], dtype=torch.int),
                max_cache_seqlen=before + len(tokens),
                page_size=256,
                q_len=len(tokens),
            )
            ids = torch.tensor([tokens])
            return loaded.model.forward(ids, loaded.cache, attn_params=params, **fields)

        run(read, 0, preprocess_only=True)
        return run(chunk, len(read))[0].float().numpy()
