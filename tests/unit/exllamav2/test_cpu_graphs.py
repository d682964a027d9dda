"""Graphs that exllamav2 records of a layer's kernels, once it has run often enough."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.exllamav2.levers import Levers
from neuron.models.info import ModelInfo
from tests.support import cuda_stack
from tests.support.synthetic_model import write_synthetic

cuda_stack.require("torch", "triton", "exllamav2")

import torch

from tests.support.emulated_devices import emulated_devices
from tests.unit.exllamav2.loading.support import TINY, info_of, load, spec_of

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

SHAPE = replace(TINY, layers=1, intermediate=512)
RECORDED_AT = 205


@pytest.fixture
def info(tmp_path: Path) -> ModelInfo:
    write_synthetic(tmp_path / "tiny", SHAPE)
    return info_of(tmp_path / "tiny")


def test_a_replayed_layer_takes_other_tokens_and_positions(info: ModelInfo) -> None:
    wanted, found = (states_of(info, graphs=graphs) for graphs in (False, True))
    assert not torch.equal(found[-1], found[-2])
    assert (found - wanted).norm() <= 2e-3 * wanted.norm()


def states_of(info: ModelInfo, *, graphs: bool) -> Any:
    """Queries, keys and the MLP's result of a token at some positions, shortly before
    the layer has recorded its kernels and thereafter."""
    levers = Levers(cuda_graphs=not graphs)
    results = []
    with emulated_devices() as backend, torch.inference_mode():
        loaded = load(backend, spec_of(info), levers=levers)
        assert loaded.config.no_graphs is not graphs
        _, attention, mlp = loaded.model.modules[:3]
        context = loaded.model.get_device_context(0)
        extension, none = backend.exllamav2.ext.ext_c, backend.exllamav2.ext.none_tensor
        for position in range(RECORDED_AT + 4):
            state = torch.linspace(-2, 2, SHAPE.hidden).half().view(1, 1, -1)
            projected = [
                torch.empty((1, 1, part.out_features), dtype=torch.half)
                for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            ]
            extension.q_attn_forward_1(
                attention.q_handle, state, 1, 1, position, none, *projected,
                context.sin[0], context.cos[0], [], none,
            )  # fmt: skip
            extension.q_mlp_forward_(mlp.q_handle, state, [], none)
            results.append(torch.cat((*projected, state), dim=-1).flatten())
    return torch.stack(results[RECORDED_AT - 4 :]).float()
