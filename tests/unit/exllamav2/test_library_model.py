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


@pytest.mark.parametrize(
    ("levers", "graphs"), [(Levers(), False), (Levers(cuda_graphs=False), True)]
)
def test_a_draft_records_no_graphs_where_its_steps_are_recorded(
    info: ModelInfo, library: tuple[Any, Handles], levers: Levers, graphs: bool
) -> None:
    options = LoadOptions(draft="d", draft_tokens=3)
    load(library[0], spec_of(info, options=options, draft=info), levers=levers)
    assert library[1].graphs == {graphs}
