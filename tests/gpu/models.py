"""The models of a run, written where it runs.

`python -m tests.gpu.models FOLDER SIZE…`
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from neuron.exl2 import open_model
from tests.support.synthetic_model import (
    LLAMA_1B,
    LLAMA_8B,
    ModelShape,
    write_synthetic,
)

TINY: Final = ModelShape(
    hidden=128, intermediate=256, layers=2, heads=4, kv_heads=2, head_dim=32,
    vocab=8704, context=1280,
)  # fmt: skip
SHAPES: Final = {"tiny": TINY, "1b": LLAMA_1B, "8b": LLAMA_8B}
_EMBEDDING: Final = "model.embed_tokens.weight"


def write_tiny(folder: Path, *, layers: int = 2, seed: int = 0, **changes: int) -> Path:
    """A tiny model, with fields of its `ModelShape` changed."""
    write_synthetic(folder, replace(TINY, layers=layers, **changes), seed=seed)
    return folder


def model_name(size: str) -> str:
    """Folder and id of a model of that size."""
    return f"synthetic-{size}"


def weight_bytes(folder: Path) -> int:
    """What a step reads of the weights: all but most of the embedding."""
    specs = open_model(folder).specs
    return sum(spec.nbytes for name, spec in specs.items() if name != _EMBEDDING)


def file_bytes(folder: Path) -> int:
    """All weights on disk."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> int:
    """Write them one after the other."""
    root, *sizes = sys.argv[1:]
    for size in sizes:
        write_synthetic(Path(root) / model_name(size), SHAPES[size])
    return 0


if __name__ == "__main__":
    sys.exit(main())
