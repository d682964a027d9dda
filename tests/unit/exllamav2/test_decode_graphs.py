"""Recorded steps compute what they are given; recorded here by doing them again."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch")
import torch

from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs
from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes

pytestmark = pytest.mark.cuda_stack

SPARE = 999
VOCAB = 8


class AgainRecorder:
    """Repeats a step by calling it."""

    def __init__(self) -> None:
        self.in_order = False
        """Whether what is launched now is in order with what is recorded."""

    def buffer(self, numbers: int) -> Any:
        assert self.in_order
        return torch.zeros(numbers, dtype=torch.int32)

    def staging(self, numbers: int) -> Any:
        return torch.full((numbers,), -7, dtype=torch.int32)

    def record(self, step: Callable[[], object]) -> Callable[[], None]:
        step()

        def repeat() -> None:
            assert self.in_order
            step()

        return repeat

    def use_stream(self) -> None:
        self.in_order = True


class Model:
    """Logits that tell all three inputs apart, and a cache of who was written."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []
        self.written: set[int] = set()

    def forward(self, ids: Any, lengths: Any, table: Any) -> Any:
        self.calls.append((*ids.shape, table.shape[1]))
        self.written |= {
            int(row[int(n) // 256]) for row, n in zip(table, lengths, strict=True)
        }
        places = torch.arange(1, table.shape[1] + 1)
        pages = (table * (table != SPARE) * places).sum(1)
        number = ids * 1000 + lengths[:, None] * 10 + pages[:, None]
        return number[:, :, None] + torch.arange(VOCAB) / VOCAB


def pages_written(lengths: Any, table: Any) -> set[int]:
    """The page on which each sequence's next token goes."""
    pairs = zip(table, lengths, strict=True)
    return {int(pages[int(length) // 256]) for pages, length in pairs}


def batch(count: int, pages: int, q_len: int = 1) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(count * 31 + pages)
    ids = torch.randint(0, 50, (count, q_len), generator=generator)
    table = torch.randperm(SPARE, generator=generator)[: count * pages]
    lengths = torch.randint(0, pages * 256, (count,), generator=generator)
    return ids, lengths.int(), table.view(count, pages).int()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def graphs(model: Model) -> DecodeGraphs:
    shapes = GraphShapes.of(16, 32)
    logits = torch.full((16, 4, VOCAB), float("nan"))
    recorder = AgainRecorder()
    return DecodeGraphs(model.forward, recorder, shapes, logits, spare_page=SPARE)


@pytest.mark.parametrize("count", [1, 3, 5, 16])
@pytest.mark.parametrize("pages", [1, 4, 6])
@pytest.mark.parametrize("q_len", [1, 4])
def test_equals_the_step_itself(
    graphs: DecodeGraphs, model: Model, count: int, pages: int, q_len: int
) -> None:
    inputs = batch(count, pages, q_len)
    torch.testing.assert_close(graphs.forward(*inputs), Model().forward(*inputs))


def test_smaller_batches_see_nothing_of_larger_ones(graphs: DecodeGraphs) -> None:
    graphs.forward(*batch(8, 4))
    inputs = batch(5, 2)
    torch.testing.assert_close(graphs.forward(*inputs), Model().forward(*inputs))


def test_padding_writes_to_the_spare_page_alone(
    graphs: DecodeGraphs, model: Model
) -> None:
    ids, lengths, table = batch(5, 2)
    graphs.forward(ids, lengths, table)
    assert model.written == pages_written(lengths, table) | {SPARE}


def test_what_comes_next_is_in_order_with_a_step(model: Model) -> None:
    """Who reads the logits launches it in the same thread."""
    recorder, logits = AgainRecorder(), torch.empty(1, 1, VOCAB)
    shapes = GraphShapes.of(1, 4)
    graphs = DecodeGraphs(model.forward, recorder, shapes, logits, spare_page=SPARE)
    graphs.forward(*batch(1, 4))
    recorder.in_order = False  # as when the library was on another stream since
    graphs.forward(*batch(1, 4))
    assert recorder.in_order


def test_a_shape_is_recorded_once(graphs: DecodeGraphs) -> None:
    for count in (5, 6, 8):
        graphs.forward(*batch(count, 4))
    assert len(graphs) == 1


def test_prepares_every_width_of_every_batch_up_to_a_size(
    graphs: DecodeGraphs, model: Model
) -> None:
    told: list[tuple[int, int]] = []
    graphs.prepare(rows=5, q_len=1, progress=lambda *done: told.append(done))
    assert told == [(done, 15) for done in range(1, 16)]
    assert len(graphs) == 5 * 3  # of 1, 2, 3, 4 and 8 rows
    assert model.written == {SPARE}
    assert model.calls == sorted(model.calls, reverse=True)  # the largest first
    recorded = len(model.calls)
    graphs.forward(*batch(6, 20))
    assert len(graphs) == 5 * 3
    assert len(model.calls) == recorded + 1


def test_refuses_a_batch_beyond_the_shapes(graphs: DecodeGraphs) -> None:
    with pytest.raises(ValueError, match="17 sequences"):
        graphs.forward(*batch(17, 1))
