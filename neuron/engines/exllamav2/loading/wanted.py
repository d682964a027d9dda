"""Which tensors a model of the library will ask for, and what becomes of each.

Source: exllamav2 0.3.2: module.py (`load_weight`), linear.py, headnorm.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

_EXL2: Final = ("q_weight", "q_invperm", "q_scale", "q_scale_max", "q_groups", "bias")
_GPTQ: Final = ("qweight", "qzeros", "scales", "g_idx", "bias")
_DENSE: Final = ("weight", "bias")
_FORMATS: Final = (_EXL2, _GPTQ, _DENSE)
"""In the order in which the library looks for them; the first part decides."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tensor that a module will ask for."""

    key: str
    file: Path
    offset: int
    """From the start of the file."""
    nbytes: int
    dtype: str
    """The format's name."""
    shape: tuple[int, ...]
    device_idx: int
    """The library's; -1 is the CPU."""
    passing: bool = False
    """Whether the module makes something else of it, and keeps that."""

    @property
    def numel(self) -> int:
        return prod(self.shape)


def wanted_tensors(model: Any, open_file: Any, embedding: int = -1) -> list[Wanted]:
    """What the modules of an `ExLlamaV2` will ask for, in about that order.

    A tensor that is missing here is read when it is asked for, and alone: parts of
    matrices that a checkpoint keeps fused.

    Args:
        model: the library's, each module's device set.
        open_file: `STFile.open` of the library.
        embedding: device that the embedding is to be read to; the library itself
            keeps it on the CPU. An embedding that is the head as well is read twice,
            because the library may scale one of them.
    """
    config = model.config
    found: dict[tuple[str, bool], Wanted] = {}
    for module in model.modules[1:]:
        for part in _parts(module):
            for one in _of_module(part, config, open_file):
                found.setdefault((one.key, one.device_idx < 0), one)
    first = list(_of_module(model.modules[0], config, open_file))
    if embedding >= 0 and not any((one.key, False) in found for one in first):
        first = [replace(one, device_idx=embedding) for one in first]
    return [*first, *found.values()]


def _parts(module: Any) -> list[Any]:
    outer = getattr(module, "input_layernorm", None)
    parts = module.submodules or [module]
    return parts if outer is None else [outer, *parts]


def _of_module(module: Any, config: Any, open_file: Any) -> Iterator[Wanted]:
    if _is_fused(module, config.tensor_file_map):
        return
    for key in filter(None, (module.key, module.alt_key)):
        for names in _FORMATS:
            if f"{key}.{names[0]}" not in config.tensor_file_map:
                continue
            for name in names:
                full = f"{key}.{name}"
                file = config.tensor_file_map.get(full)
                if file is not None:
                    stored = open_file(file, keymap=config.arch.keymap)
                    yield _wanted(module, full, name, stored)
            return


def _is_fused(module: Any, files: Any) -> bool:
    key = getattr(module, "f_key", None)
    return key is not None and (key in files or f"{key}.weight" in files)


def _wanted(module: Any, key: str, name: str, stored: Any) -> Wanted:
    entry = stored.header[key]
    begin, end = entry["data_offsets"]
    return Wanted(
        key=key,
        file=Path(stored.filename),
        offset=stored.header_size + begin,
        nbytes=end - begin,
        dtype=entry["dtype"],
        shape=tuple(entry["shape"]),
        device_idx=module.device_idx,
        passing=name == "q_invperm" or (name == "weight" and _is_remade(module, entry)),
    )


def _is_remade(module: Any, entry: Any) -> bool:
    """Whether the module keeps a copy: padded, normalized, or one row per head."""
    if getattr(module, "padding", 0) or getattr(module, "normalize_unq", False):
        return True
    return hasattr(module, "num_heads") and len(entry["shape"]) == 1
