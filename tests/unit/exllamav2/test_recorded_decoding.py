"""The driver with decode steps that are recorded; here by doing them again."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

import torch
from exllamav2.attn import ExLlamaV2Attention

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.backend import load_backend
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs
from neuron.engines.exllamav2.steps.decoding import warm_up
from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.test_decode_graphs import AgainRecorder
from tests.unit.exllamav2.torch_engine import (
    GenerationDriver,
    TorchLoaded,
    assert_page_table_holds,
    driving,
    loaded_of,
)
from tests.unit.reference.support import generate, request, tiny

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 16
SLOTS = 4
PROMPT = tuple(range(3, 23))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 640 tokens."""
    model = tiny("llama-gqa-tied-linear")
    config = model.config | {"max_position_embeddings": 640}
    return write_folder(tmp_path_factory.mktemp("tiny"), config, tensors(model))


def recorded(
    loaded: TorchLoaded, recorder: AgainRecorder | None = None
) -> DecodeGraphs:
    """Batches are filled up to whole shapes, and fillers write to the last page."""
    model, cache = loaded.model, loaded.cache
    pages = cache.max_seq_len // PAGE

    def forward(ids: Any, lengths: Any, table: Any) -> Any:
        params = ExLlamaV2Attention.PagedParams(
            len(ids), table, lengths, int(lengths.max()), PAGE, ids.shape[1]
        )
        return model.forward_chunk(ids, cache, params)["logits"]

    logits = torch.empty(SLOTS, 1, 96)
    shapes = GraphShapes.of(SLOTS, pages)
    recorder = recorder or AgainRecorder()
    return DecodeGraphs(forward, recorder, shapes, logits, spare_page=pages - 1)


@pytest.fixture
def driver(folder: Path) -> Iterator[GenerationDriver]:
    with driving(
        folder, cache_tokens=13 * PAGE, page_size=PAGE, slots=SLOTS, steps=recorded
    ) as driver:
        yield driver


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (RuntimeError("CUDA error: not permitted\nCUDA kernel errors"), EngineError,
         r"recorded: CUDA error: not permitted \(NEURON_EXLLAMAV2_CUDA_GRAPHS=0"),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "of"),
    ],
)  # fmt: skip
def test_a_recording_that_fails_says_how_to_do_without(
    folder: Path, error: Exception, raised: type[Exception], said: str
) -> None:
    class Fails(AgainRecorder):
        def record(self, step: object) -> NoReturn:
            raise error

    loaded = loaded_of(folder, 13 * PAGE)
    limits = SimpleNamespace(slots=SLOTS, query_length=1)
    asked = cast("Any", SimpleNamespace(limits=limits, draft=None))
    steps = recorded(loaded, Fails())
    with pytest.raises(raised, match=said):
        warm_up(load_backend(), asked, Levers(), steps, None, lambda *_: None)


def test_it_computes_the_same(driver: GenerationDriver, folder: Path) -> None:
    requests = [
        request(name, (*PROMPT, ord(name) % 90), count, top_logprobs=1)
        for name, count in zip("abcde", (150, 90, 40, 7, 70), strict=True)
    ]
    with driving(folder, page_size=PAGE) as plain:
        expected = generate(plain, *requests)
    found = generate(driver, *requests)
    assert driver.stats().preemptions > 0
    for name, output in expected.items():
        assert found[name].tokens == output.tokens
        assert found[name].reason == output.reason
    assert_page_table_holds(driver)


def test_the_last_page_is_no_sequences(driver: GenerationDriver) -> None:
    assert driver.stats().kv_pages_total == 12
    with pytest.raises(EngineError, match="context length is 193 tokens"):
        driver.submit(request("a", PROMPT, 174))
    pages = driver.generator.all_pages
    generate(driver, request("a", PROMPT, 173))
    assert max(page.page_index for page in pages) == 11
