"""The library's models as they are made, before anything is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron.engines.exllamav2.levers import Levers
from neuron.exl2 import open_model
from neuron.models.info import ModelInfo
from neuron.protocol.types import LoadOptions
from tests.support import cuda_stack
from tests.support.synthetic_model import write_synthetic
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import TINY, info_of, load, spec_of

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)


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


def test_biases_follow_the_columns_of_the_packed_mlp(
    tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    """The library leaves them where they are."""
    tensors = hollow.llama(hollow.SMALL)
    for layer in range(hollow.SMALL.layers):
        for name, columns in (("gate", 512), ("up", 512), ("down", 256)):
            key = f"model.layers.{layer}.mlp.{name}_proj.bias"
            tensors[key] = ("F16", (columns,))
    config = hollow.config_of(hollow.SMALL, mlp_bias=True)
    info = hollow.write(tmp_path / "m", config, tensors, seed=1)
    hollow.with_the_bundled_tokenizer(info.path)
    loaded = load(library[0], spec_of(info))
    stored = open_model(info.path)
    for layer in range(hollow.SMALL.layers):
        at = f"model.layers.{layer}.mlp"
        order = np.argsort(stored.read(f"{at}.down_proj.q_invperm"))
        for name in ("gate_proj", "up_proj", "down_proj"):
            bias, weight = (
                stored.read(f"{at}.{name}.{part}") for part in ("bias", "q_weight")
            )
            found = loaded.model.modules_dict[f"{at}.{name}"].q_tensors
            if name != "down_proj":
                bias, weight = bias[order], weight[:, order]
            assert np.array_equal(found["bias"].numpy(), bias)
            assert np.array_equal(found["q_weight"].numpy(), weight)
