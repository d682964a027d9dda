"""LoRA adapters put onto a loaded model.

Two things that the library does to weights it leaves undone for adapters, without a
word. Gate and up projections of EXL2 models get the order of columns that the down
projection has for its rows: what an adapter adds would go to other neurons. And what
some architectures multiply a layer's output by is multiplied into its weights.
Source: exllamav2 0.3.2: lora.py, linear.py, mlp.py.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.memory.adapters import CONFIG, WEIGHTS, Adapter
from neuron.engines.exllamav2.memory.description import Description

_BY_COLUMN: Final = ("gate_proj", "up_proj", "c_fc")
_BY_ROW: Final = ("down_proj", "c_proj")


def apply_adapter(
    library: Any, model: Any, description: Description, adapter: Adapter
) -> Any:
    """An `ExLlamaV2Lora` of the model's, on its devices.

    Args:
        library: the module `exllamav2`.
        model: the loaded `ExLlamaV2`.
        description: its folder.
        adapter: what was found to fit.

    Raises:
        EngineError: the library does not take it.
    """
    try:
        lora = library.lora.ExLlamaV2Lora(
            model,
            str(adapter.folder / CONFIG),
            str(adapter.folder / WEIGHTS),
            lora_scaling=adapter.scale,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise EngineError(
            f"loras: {adapter.folder}: exllamav2 does not take it: {error}",
            code="load_failed",
            param="loras",
        ) from None
    with torch.inference_mode():
        for module, order in _reordered(library, model, description):
            _reorder(module, lora, order)
        for module in set(lora.target_modules.values()):
            scaled = module.prev_prescale
            module.lora_b_tensors[lora] *= module.prescale if scaled is None else scaled
    lora.tensors.clear()  # what was put aside for these
    model.update_loras()
    return lora


def _reordered(
    library: Any, model: Any, description: Description
) -> Iterator[tuple[Any, Any]]:
    """Every module of an MLP that has another order, and that order."""
    for mlp in model.modules:
        if not isinstance(mlp, library.mlp.ExLlamaV2MLP):
            continue
        name = f"{mlp.down_proj.key}.q_invperm"
        if name not in description.tensors.specs:
            continue
        order = np.argsort(description.tensors.read(name))
        for part in mlp.submodules:
            if part.key.endswith((*_BY_COLUMN, *_BY_ROW)):
                yield part, torch.from_numpy(order)


def _reorder(module: Any, lora: Any, order: Any) -> None:
    """Bring one module's matrices into the order of its packed rows or columns.

    The library keeps A as [in_features, rank] and B as [rank, out_features].
    """
    by_row = module.key.endswith(_BY_ROW)
    matrices = module.lora_a_tensors if by_row else module.lora_b_tensors
    if (matrix := matrices.get(lora)) is not None:
        on_device = order.to(matrix.device)
        matrices[lora] = matrix.index_select(0 if by_row else 1, on_device)
