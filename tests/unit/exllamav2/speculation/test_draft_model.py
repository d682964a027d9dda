"""What a model that drafts is given of a prompt that is not quite its own."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch")

import torch

from neuron.engines.exllamav2.speculation.draft_model import DraftModel

pytestmark = pytest.mark.cuda_stack

IMAGE = 1_000_000_007


class Model:
    """Keeps what it was asked."""

    config = SimpleNamespace(vocab_size=90)

    def __init__(self) -> None:
        self.ids: Any = None
        self.tables: Any = None

    def forward_chunk(self, input_ids: Any, attn_params: Any) -> dict[str, Any]:
        self.ids, self.tables = input_ids.tolist(), attn_params.alt_rope_embed
        return {"logits": torch.zeros(1)}


def test_tokens_and_tables_of_images_are_not_the_drafts() -> None:
    model, tables = Model(), {"cpu": ("sin", "cos")}
    params = SimpleNamespace(alt_rope_embed=tables)
    ids = torch.tensor([[5, IMAGE, 95, 7]])
    DraftModel(model, 96).forward_chunk(ids, params)
    assert model.ids == [[5, 89, 89, 7]]
    assert model.tables == {}
    assert params.alt_rope_embed is tables  # the model's own pass comes next
