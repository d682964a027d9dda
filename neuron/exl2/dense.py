"""Writing a Hugging Face model folder with float16 weights, tensor by tensor."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from neuron.exl2.directory import INDEX_NAME
from neuron.exl2.source import TensorSource, read_half
from neuron.exl2.write import TensorPlan, TensorWriter, shard

MAX_SHARD_BYTES: Final = 8 << 30


def write_dense(
    folder: Path,
    tensors: TensorSource,
    config: Mapping[str, object],
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Write tensors, their index where they fill several files, and config.json.

    Args:
        progress: called with (name, tensors done, tensors in all).

    Returns:
        Bytes of the tensor files.

    Raises:
        FormatError: a tensor does not fit float16.
        OSError: something cannot be read or written.
    """
    plans = [TensorPlan(s.name, "F16", s.shape) for s in tensors.specs.values()]
    shards = shard(plans, max_shard_bytes)
    with TensorWriter(folder, "model", shards) as writer:
        for done, plan in enumerate(plans, start=1):
            writer.write(plan.name, read_half(tensors, plan.name))
            progress(plan.name, done, len(plans))
    files = sorted(folder.glob("*.safetensors"))
    written = sum(file.stat().st_size for file in files)
    if len(shards) > 1:
        weight_map = {
            plan.name: file.name
            for file, part in zip(files, shards, strict=True)
            for plan in part
        }
        index = {"metadata": {"total_size": written}, "weight_map": weight_map}
        _write_json(folder / INDEX_NAME, index)
    _write_json(folder / "config.json", dict(config) | {"torch_dtype": "float16"})
    return written


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
