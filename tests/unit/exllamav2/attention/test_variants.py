"""What is compiled while serving: nothing that a warm-up has not met."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton")

import torch

from neuron.engines.exllamav2.attention import launch
from neuron.engines.exllamav2.attention.problem import Cache, Mask
from tests.support.triton_variants import noted


@pytest.fixture
def variants() -> Iterator[set[str]]:
    with noted() as found:
        yield found


@dataclass(frozen=True, slots=True)
class _Model:
    heads: int
    kv_heads: int
    head_dim: int
    mask: Mask

    def layer(self, batch: int, queries: int, width: int, offset: int = 0) -> None:
        """One layer's calls; table and lengths begin `offset` words after a line."""
        keys, values = torch.empty(
            (2, batch, queries, self.kv_heads, self.head_dim), dtype=torch.float16
        )
        pages = torch.empty((1, 256, *keys.shape[2:]), dtype=torch.float16)
        words = torch.zeros(offset + batch * (width + 1), dtype=torch.int32)[offset:]
        lengths, table = words[:batch], words[batch:].view(batch, width)
        cache = Cache(pages, pages.clone(), table)
        launch.append(keys, values, cache, lengths)
        query = keys.new_empty((batch, queries, self.heads, self.head_dim))
        launch.attend(query, cache, lengths, queries, self.mask)


PLAIN = Mask(0.1, causal=True)
MODELS = (
    _Model(32, 8, 128, PLAIN),
    _Model(28, 4, 128, PLAIN),
    _Model(32, 32, 96, PLAIN),
    _Model(24, 8, 64, PLAIN),
    _Model(16, 8, 256, replace(PLAIN, left=4096, softcap=50.0)),
)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_batches_and_tables_of_any_size_need_no_other(
    variants: set[str], model: _Model
) -> None:
    model.layer(1, 1, 4)
    met = set(variants)
    assert met
    sizes = product((1, 2, 3, 16, 33), (1, 2, 15, 16, 64), (0, 1, 4))
    for batch, width, offset in sizes:
        model.layer(batch, 1, width, offset)
    assert variants == met


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_prompts_of_any_length_need_those_of_doubled_ones(
    variants: set[str], model: _Model
) -> None:
    for power in range(11):
        model.layer(1, 1 << power, 8)
    met = set(variants)
    for queries, width in product((3, 5, 7, 9, 15, 17, 31, 33, 100, 700), (4, 7, 16)):
        model.layer(1, queries, width)
    assert variants == met
