"""What the library is told of a load, and where it puts what."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.base import EngineError
from neuron.protocol.types import LoadOptions
from tests.support import cuda_stack

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import CpuMemory, Handles
from tests.unit.exllamav2.loading.support import (
    GIB,
    TIMEOUT,
    TINY,
    copied,
    info_of,
    load,
    spec_of,
)

pytestmark = TIMEOUT


def test_settings_that_the_library_must_have(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    loaded = load(library[0], spec_of(info_of(folder), slots=40))
    config = loaded.config
    assert config.no_sdpa
    assert (config.max_batch_size, config.max_seq_len) == (1, 256)
    assert config.max_input_len == loaded.limits.max_input == 256
    assert config.max_output_len == 40
    head = TINY.vocab * TINY.hidden
    assert config.max_dq_size >= head  # 40 rows dequantize it


def test_layers_go_to_their_devices(folder: Path, library: tuple[Any, Handles]) -> None:
    from neuron.engines.exllamav2.loading.load import STARTING_BYTES

    spec = spec_of(info_of(folder), devices=(0, 1), cache_tokens=1 << 17)
    whole = load(library[0], spec).placed.needs[0].total
    almost = whole + STARTING_BYTES - (1 << 20)
    loaded = load(library[0], spec, vram=CpuMemory([almost, GIB]))
    places = loaded.placed.layers
    assert set(places) == {0, 1}
    modules = loaded.model.modules
    assert [m.device_idx for m in modules[1:]] == [
        *(place for place in places[:-1] for _ in range(2)), places[-1], places[-1]
    ]  # fmt: skip


def test_draft_is_loaded_beside_its_model(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    info = info_of(folder)
    options = LoadOptions(draft="d", draft_tokens=3, rope_scale=2)
    loaded = load(library[0], spec_of(info, options=options, draft=info))
    assert loaded.draft is not None
    assert loaded.draft.model is not loaded.model
    assert loaded.draft.cache.max_seq_len == loaded.cache.max_seq_len
    assert loaded.draft.config.max_seq_len == loaded.config.max_seq_len
    assert loaded.limits.query_length == 4
    scales = loaded.config.scale_pos_emb, loaded.draft.config.scale_pos_emb
    assert scales == (2, 1)


def test_draft_with_other_tokens_is_refused(
    folder: Path, library: tuple[Any, Handles], tmp_path: Path
) -> None:
    """Even where the plan was made before the folder changed."""
    other = shutil.copytree(folder, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first = min(vocabulary, key=vocabulary.get)
    vocabulary["elsewhere"] = vocabulary.pop(first)
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    options = LoadOptions(draft="other")
    spec = spec_of(info_of(folder), options=options, draft=info_of(other))
    with pytest.raises(EngineError, match="token 0 is 'elsewhere' for 'other'") as no:
        load(library[0], spec)
    assert no.value.param == "draft"


def test_config_in_the_new_spelling(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    """The library alone would take 10000 for the base of positions, and say nothing."""
    copy = copied(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    config["architectures"] = ["LlamaForCausalLM"]
    (copy / "config.json").write_text(json.dumps(config))
    loaded = load(library[0], spec_of(info_of(copy)))
    assert loaded.config.rotary_embedding_base == theta


def test_load_without_a_gpu_is_refused_before_anything_is_hidden(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuron.engines.exllamav2.loading.load import prepare_devices

    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    with pytest.raises(EngineError, match="names no GPU"):
        prepare_devices(spec_of(info_of(folder), devices=()))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    prepare_devices(spec_of(info_of(folder), devices=(2, 1)))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,1"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(EngineError, match="uses GPUs 2,1 already"):
        prepare_devices(spec_of(info_of(folder), devices=(0,)))
