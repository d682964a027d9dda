"""Recorded steps of a model and of the one that drafts for it."""

from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

import torch
from exllamav2.attn import ExLlamaV2Attention

from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs
from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes
from tests.unit.exllamav2.speculation.support import (
    CONTEXT,
    DRAFT,
    GUESSES,
    PAGE,
    PROMPT,
    TIMEOUT,
    guesses,
)
from tests.unit.exllamav2.test_decode_graphs import AgainRecorder
from tests.unit.exllamav2.test_driver import assert_close
from tests.unit.exllamav2.torch_engine import (
    TorchLoaded,
    assert_page_table_holds,
    driving,
)
from tests.unit.reference.support import generate, request

pytestmark = TIMEOUT


def recorded(of: str, loaded: TorchLoaded) -> DecodeGraphs:
    """Batches are filled up to whole shapes, and fillers write to the last page."""
    held = loaded if of == "model" else loaded.draft
    assert held is not None
    model, cache = held.model, held.cache
    pages = cache.max_seq_len // PAGE

    def forward(ids: Any, lengths: Any, table: Any) -> Any:
        assert int(lengths.max()) + ids.shape[1] <= CONTEXT
        params = ExLlamaV2Attention.PagedParams(
            len(ids), table, lengths, int(lengths.max()), PAGE, ids.shape[1]
        )
        return model.forward_chunk(ids, cache, params)["logits"]

    logits = torch.empty(4, 1 + GUESSES, 96)
    shapes = GraphShapes.of(4, CONTEXT // PAGE)
    return DecodeGraphs(forward, AgainRecorder(), shapes, logits, spare_page=pages - 1)


def test_they_compute_the_same(folder: Path, other: Path) -> None:
    asked = [request(name, (*PROMPT, ord(name) % 90), 150) for name in "abc"]
    with driving(folder, page_size=PAGE) as plain:
        expected = generate(plain, *asked)
    with driving(
        folder,
        cache_tokens=13 * PAGE,
        page_size=PAGE,
        options=DRAFT,
        draft=other,
        steps=partial(recorded, "model"),
        draft_steps=partial(recorded, "draft"),
    ) as driver:
        found = generate(driver, *asked)
        assert driver.stats().preemptions > 0
        assert guesses(driver)[0] > 0
        assert_page_table_holds(driver)
    for name, output in found.items():
        assert_close(output, expected[name])


def test_a_guess_stays_on_the_device_for_the_next_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(_: torch.Tensor) -> NoReturn:
        raise AssertionError("the host waits for the device")

    with driving(
        folder,
        page_size=PAGE,
        options=DRAFT,
        draft=folder,
        steps=partial(recorded, "model"),
        draft_steps=partial(recorded, "draft"),
    ) as driver:
        monkeypatch.setattr(torch.Tensor, "cpu", wait)
        output = generate(driver, request("a", PROMPT, 20))["a"]
        assert len(output.tokens) == 20
        assert guesses(driver)[0] > 0
