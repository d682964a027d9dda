"""Contexts beyond the model's own: the tables of sines and cosines of a load."""

from pathlib import Path
from typing import Any

import pytest

from neuron.protocol.types import LoadOptions
from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import TIMEOUT, TINY, info_of, load, spec_of

pytestmark = TIMEOUT


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (LoadOptions(rope_scale=2), {"scale_pos_emb": 2}),
        (LoadOptions(rope_alpha=2.5), {"scale_alpha_value": 2.5}),
        (LoadOptions(yarn_factor=4), {"alt_rope_method": "yarn"}),
    ],
)
def test_context_extension(
    folder: Path, library: tuple[Any, Handles], options: LoadOptions,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    loaded = load(
        library[0], spec_of(info_of(folder), options=options, max_seq_len=1024)
    )
    assert {name: getattr(loaded.config, name) for name in changes} == changes
    context = loaded.model.device_context[0]
    angles = torch.atan2(context.sin[0][0, 0].float(), context.cos[0][0, 0].float())
    half = TINY.head_dim // 2
    exponents = torch.arange(half) / half
    base = TINY.rope_theta * (options.rope_alpha or 1) ** (
        TINY.head_dim / (TINY.head_dim - 2)
    )
    plain = base**-exponents / (options.rope_scale or 1)
    if options.yarn_factor:
        # The fastest pairs are kept, the slowest interpolated.
        kept, stretched = angles[1, 0], angles[1, half - 1]
        assert kept == pytest.approx(1, abs=2e-3)
        assert stretched == pytest.approx(plain[-1] / 4, rel=0.02)
        return
    torch.testing.assert_close(angles[1, :half], plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("max_seq_len", [1024, 2048])
def test_yarn_does_not_depend_on_how_long_the_loaded_context_is(
    folder: Path, library: tuple[Any, Handles], max_seq_len: int
) -> None:
    """The library's own takes `max_seq_len` for the context it was trained on."""
    from neuron.engines.reference.rope import parse_rope

    options = LoadOptions(yarn_factor=4)
    loaded = load(
        library[0],
        spec_of(info_of(folder), options=options, max_seq_len=max_seq_len),
    )
    scaling = {
        "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 512,
    }  # fmt: skip
    rope = parse_rope({"rope_theta": 5e5, "rope_scaling": scaling}, 512)
    table = torch.from_numpy(rope.table(max_seq_len, TINY.head_dim))
    sin = loaded.model.device_context[0].sin[0][0, 0, :, : TINY.head_dim // 2]
    torch.testing.assert_close(sin.float(), table.imag, rtol=0, atol=1e-3)
