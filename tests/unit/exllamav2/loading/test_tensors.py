"""What a load puts on its devices, and what it says meanwhile."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron.engines.exllamav2.memory.modules import aligned
from neuron.exl2 import open_model
from neuron.models.bundled import bundled_root
from tests.support import cuda_stack
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import (
    TIMEOUT,
    TINY,
    as_the_library_loads,
    info_of,
    load,
    spec_of,
    tensors_of,
)

pytestmark = TIMEOUT


@pytest.mark.parametrize("name", ["tiny", "bundled"])
def test_tensors_are_those_that_the_library_loads(
    folder: Path, library: tuple[Any, Handles], name: str
) -> None:
    backend, handles = library
    path = folder if name == "tiny" else bundled_root() / "tinystories-15m"
    expected = as_the_library_loads(backend, path)
    made = handles.counts
    loaded = load(backend, spec_of(info_of(path)))
    found = tensors_of(loaded.model)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key
    assert handles.counts == made + made


@pytest.mark.parametrize("kind", ["gptq", "fp16"])
def test_other_formats(tmp_path: Path, library: tuple[Any, Handles], kind: str) -> None:
    backend, handles = library
    info = hollow.write_llama(tmp_path / "m", kind=kind)
    hollow.with_the_bundled_tokenizer(info.path)
    loaded = load(backend, spec_of(info))
    assert handles.counts["q_matrix"] == (21 if kind == "gptq" else 0)
    linears = [t for k, t in tensors_of(loaded.model).items() if "proj" in k]
    assert linears
    if kind == "fp16":
        assert {t.dtype for t in linears} == {torch.float16}
        assert loaded.model.device_context[0].scratch is None


def test_bytes_are_those_of_the_plan(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    loaded = load(library[0], spec_of(info_of(folder)))
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors_of(loaded.model).values()
    }
    planned = loaded.requirements.model.modules
    arena = sum(module.arena_bytes for module in planned)
    loose = sum(module.loose_bytes for module in planned)
    largest = max(storages.values())
    # Orders of rows wait to be made short, and are no part of the block.
    assert 0 <= arena - largest <= 512 * len(storages)
    rest = sum(storages.values()) - largest
    assert 0 <= loose - rest <= 512 * len(storages)


def test_orders_of_gptq_rows_are_planned_for(
    tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    """Groups of rows one after the other are an order, too, to the library."""
    info = hollow.write_llama(tmp_path / "m", kind="gptq")
    hollow.with_the_bundled_tokenizer(info.path)
    for name, spec in open_model(info.path).specs.items():
        if name.endswith(".g_idx"):
            groups = np.arange(spec.shape[0], dtype="<i4") // hollow.GROUP
            with spec.file.open("r+b") as stream:
                stream.seek(spec.offset)
                stream.write(groups.tobytes())
    loaded = load(library[0], spec_of(info))
    made = [
        tensor.nbytes
        for key, tensor in tensors_of(loaded.model).items()
        if key.endswith(("q_perm", "q_invperm"))
    ]
    planned = sum(module.loose_bytes for module in loaded.requirements.model.modules)
    assert len(made) == 2 * 21
    assert planned == sum(map(aligned, made))


@pytest.mark.parametrize(
    ("mode", "tensors"), [("fp16", 2), ("q8", 4), ("q6", 4), ("q4", 4)]
)
def test_caches_are_those_of_the_plan(
    folder: Path, library: tuple[Any, Handles], mode: str, tensors: int
) -> None:
    from neuron.engines.exllamav2.memory.cache_modes import CACHE_MODES

    loaded = load(library[0], spec_of(info_of(folder), cache_mode=mode))
    cache = loaded.cache
    held = cache.all_tensors()
    tokens = 512 + 256  # recorded decode steps have a page for themselves
    assert cache.max_seq_len == tokens
    assert len(held) == tensors * TINY.layers
    planned = CACHE_MODES[mode].tensors(tokens, TINY.kv_heads, TINY.head_dim)
    assert sum(t.nbytes for t in held) == TINY.layers * sum(planned)
    shared = [t for pair in getattr(cache, "temp_tensors", {}).values() for t in pair]
    planned = CACHE_MODES[mode].temporaries(tokens, TINY.kv_heads, TINY.head_dim)
    assert [t.nbytes for t in shared] == list(planned)


def test_progress_is_told_in_bytes_after_every_tensor(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    told: list[tuple[str, int, int]] = []
    load(library[0], spec_of(info_of(folder)), progress=lambda *call: told.append(call))
    weights = [(done, total) for stage, done, total in told if stage == "weights"]
    assert [done for done, _ in weights] == sorted({done for done, _ in weights})
    assert {total for _, total in weights} == {info_of(folder).weight_bytes}
    assert weights[-1][0] == weights[-1][1]
    assert told[-1] == ("cache", 2, 2)
