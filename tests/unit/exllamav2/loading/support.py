"""Loads of the library's own modules, on the CPU and through our staging."""

import gc
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from neuron.engines.base import LoadSpec
from neuron.models.info import ModelInfo
from neuron.models.inspect import inspect_model
from tests.support import cuda_stack
from tests.support.synthetic_model import ModelShape

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import CpuMemory

TIMEOUT = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)
"""Of tests that may be the first to need the extension."""
GIB: Final = 1 << 30
TINY: Final = ModelShape(
    hidden=256, intermediate=544, layers=2, heads=8, kv_heads=2, head_dim=32,
    vocab=8704, context=512,
)  # fmt: skip


def spec_of(info: ModelInfo, **changes: Any) -> LoadSpec:
    spec = LoadSpec(
        info, max_seq_len=256, slots=4, cache_mode="fp16", cache_tokens=512,
        devices=(0,),
    )  # fmt: skip
    return replace(spec, **changes)


def load(backend: Any, spec: LoadSpec, **changes: Any) -> Any:
    from neuron.engines.exllamav2.levers import Levers
    from neuron.engines.exllamav2.loading.load import load_model

    settings: dict[str, Any] = {
        "progress": lambda *_: None,
        "cancelled": lambda: False,
        "levers": Levers(),
        "vram": CpuMemory([GIB] * len(spec.devices)),
    }
    return load_model(backend, spec, **settings | changes)


def info_of(folder: Path) -> ModelInfo:
    return inspect_model(folder, folder.name)


def tensors_of(model: Any) -> dict[str, Any]:
    """Every tensor that the library's modules keep."""
    found: dict[str, Any] = {}
    for key, module in model.modules_dict.items():
        for name in ("weight", "bias", "layernorm", "embedding", "linear"):
            part = getattr(module, name, None)
            if isinstance(part, torch.Tensor):
                found[f"{key}.{name}"] = part
            elif part is not None and hasattr(part, "weight"):
                found[f"{key}.{name}.weight"] = part.weight
        for name, tensor in (getattr(module, "q_tensors", None) or {}).items():
            found[f"{key}.{name}"] = tensor
    return found


def as_the_library_loads(backend: Any, folder: Path) -> dict[str, Any]:
    """The same, by the library's own `load` alone."""
    config = backend.exllamav2.ExLlamaV2Config(str(folder))
    model = backend.exllamav2.ExLlamaV2(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", lambda: None)
        model.load()
    return tensors_of(model)


def live_bytes() -> int:
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if issubclass(type(tensor), torch.Tensor) and tensor.device.type == "cpu"
    }
    return sum(storages.values())


def copied(folder: Path, to: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(folder, to))
