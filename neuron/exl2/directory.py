"""The tensors of a model folder, over all its files."""

import mmap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.errors import FormatError
from neuron.exl2.header import TensorSpec, read_header
from neuron.exl2.json_file import read_json_object
from neuron.exl2.linear import Linear
from neuron.exl2.read_linear import read_linear

INDEX_NAME: Final = "model.safetensors.index.json"
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NUMPY: Final[Mapping[str, str]] = {
    "BOOL": "?",
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


class TensorDirectory:
    """The tensors of one model; weights stay on disk until they are read."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self.path = path
        self.specs: Mapping[str, TensorSpec] = MappingProxyType(dict(specs))
        self._maps: dict[Path, mmap.mmap] = {}

    def read(self, name: str) -> NDArray[Any]:
        """One tensor, read-only and backed by the file; BF16 is widened to float32.

        Raises:
            FormatError: there is none of that name, or NumPy has no such dtype.
        """
        spec = self.spec(name)
        if spec.dtype == "BF16":
            wide = self._view(spec, "<u2").astype(np.uint32)
            wide <<= np.uint32(16)
            return wide.view(np.float32)
        if spec.dtype not in _NUMPY:
            raise FormatError(spec.file, name, f"dtype {spec.dtype} cannot be read")
        return self._view(spec, _NUMPY[spec.dtype])

    def spec(self, name: str) -> TensorSpec:
        """Where a tensor lies.

        Raises:
            FormatError: there is none of that name.
        """
        if name not in self.specs:
            raise FormatError(self.path, name, "is missing")
        return self.specs[name]

    def linear(self, key: str, out_features: int | None = None) -> Linear:
        """The linear layer whose tensors are named `key.…`.

        `out_features` is how many columns are real; without it the columns that pad
        an EXL2 layer count too.

        Raises:
            FormatError: there is none of that name, or its tensors do not fit.
        """
        return read_linear(self, key, out_features)

    @cached_property
    def quantization_config(self) -> Mapping[str, object]:
        """That part of config.json; empty where there is none.

        Raises:
            FormatError: config.json is malformed.
        """
        file = self.path / "config.json"
        if not file.exists():
            return {}
        section = read_json_object(file).get("quantization_config")
        return section if isinstance(section, dict) else {}

    def _view(self, spec: TensorSpec, dtype: str) -> NDArray[Any]:
        mapped = self._maps.get(spec.file)
        if mapped is None:
            with spec.file.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[spec.file] = mapped
        if spec.offset + spec.nbytes > len(mapped):
            raise FormatError(
                spec.file, spec.name, "the file became shorter since it was opened"
            )
        numbers = spec.nbytes // np.dtype(dtype).itemsize
        if not numbers:
            return np.empty(spec.shape, dtype=dtype)
        flat = np.frombuffer(mapped, dtype=dtype, count=numbers, offset=spec.offset)
        return flat.reshape(spec.shape)


def open_model(path: Path) -> TensorDirectory:
    """Read the headers of a model folder, or of one file.

    Where an index names the shards, only these are read, and each tensor must be
    where the index says; an index of which no shard is here is left over from the
    unquantized model and is passed over. Without an index every *.safetensors counts.

    Raises:
        FormatError: nothing there is a safetensors file, or one is malformed.
        OSError: something cannot be read.
    """
    if path.is_file():
        return TensorDirectory(path.parent, read_header(path))
    files = _files(path)
    index = _index(path, files)
    if index is not None:
        files = sorted({path / shard for shard in index.values()})
    specs: dict[str, TensorSpec] = {}
    for file in files:
        for name, spec in read_header(file).items():
            if index is not None and index.get(name, file.name) != file.name:
                continue
            if name in specs:
                raise FormatError(file, name, f"is also in {specs[name].file.name}")
            specs[name] = spec
    for name, shard in (index or {}).items():
        if name not in specs:
            raise FormatError(path / shard, name, "is in the index and not in the file")
    return TensorDirectory(path, specs)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        raise FormatError(path, None, "is no folder")
    files = sorted(p for p in path.iterdir() if p.suffix == ".safetensors")
    if files:
        return files
    pickles = sorted(p.name for p in path.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise FormatError(
            path / pickles[0],
            None,
            "is a pickle file, which is never opened: convert it to safetensors",
        )
    raise FormatError(path, None, "holds no .safetensors file")


def _index(path: Path, files: list[Path]) -> dict[str, str] | None:
    """Tensor name → file name, or None where no index is to be followed."""
    file = path / INDEX_NAME
    if not file.exists():
        return None
    weight_map = read_json_object(file).get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(file, None, "weight_map is not a JSON object")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise FormatError(file, name, "its shard is not a plain file name")
    here = {p.name for p in files}
    named = set(weight_map.values())
    if not named & here:
        return None
    if missing := sorted(named - here):
        raise FormatError(path / missing[0], None, "the index names it; it is missing")
    return weight_map
