"""The library's models as they are made, before anything is loaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.exllamav2.levers import Levers
from neuron.models.info import ModelInfo
from neuron.protocol.types import LoadOptions
from tests.support import cuda_stack
from tests.support.synthetic_model import write_synthetic

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import Handles, library_on_the_cpu
from tests.unit.exllamav2.test_loading import TINY, info_of, load, spec_of

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)


@pytest.fixture
def library() -> Iterator[tuple[Any, Handles]]:
    with library_on_the_cpu() as found:
        yield found


@pytest.fixture
def info(tmp_path: Path) -> ModelInfo:
    write_synthetic(tmp_path / "tiny", TINY)
    return info_of(tmp_path / "tiny")


def test_guesses_at_the_end_of_the_context_have_rows_in_the_tables(
    info: ModelInfo, library: tuple[Any, Handles]
) -> None:
    options = LoadOptions(draft="d", draft_tokens=3)
    plain = load(library[0], spec_of(info))
    loaded = load(library[0], spec_of(info, options=options, draft=info))
    [expected] = plain.model.device_context[0].sin
    assert loaded.config.max_seq_len == expected.shape[2] == 256
    for model in (loaded.model, loaded.draft.model):
        context = model.device_context[0]
        assert [t.shape for t in (*context.sin, *context.cos)] == [(1, 1, 259, 32)] * 2
        assert torch.equal(context.sin[0][:, :, :256], expected)
        assert not context.sin[0][:, :, 256:].any()


@pytest.mark.parametrize(
    ("levers", "graphs"), [(Levers(), False), (Levers(cuda_graphs=False), True)]
)
def test_a_draft_records_no_graphs_where_its_steps_are_recorded(
    info: ModelInfo, library: tuple[Any, Handles], levers: Levers, graphs: bool
) -> None:
    options = LoadOptions(draft="d", draft_tokens=3)
    load(library[0], spec_of(info, options=options, draft=info), levers=levers)
    assert library[1].graphs == {graphs}
