"""Quantizing a whole Hugging Face model folder into an EXL2 one, on the CPU."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.conversion_plan import (
    FLOATS,
    ConversionPlan,
    ConvertError,
    ConvertOptions,
    LayerJob,
    mean_bpw,
    plan_conversion,
)
from neuron.exl2.directory import INDEX_NAME, TensorDirectory, open_model
from neuron.exl2.errors import FormatError
from neuron.exl2.exl2_linear import Exl2Linear
from neuron.exl2.json_file import read_json_object
from neuron.exl2.quantize import quantize_linear
from neuron.exl2.write import TensorWriter, shard

__all__ = [
    "ConvertError",
    "ConvertOptions",
    "ConvertReport",
    "LayerReport",
    "convert",
]

FORMAT_VERSION: Final = "0.3.2"
"""The exllamav2 release whose files these are like."""
_COPIED: Final = (".json", ".jinja", ".model", ".tiktoken", ".txt")
_COPIED_STEMS: Final = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer is done."""

    key: str
    done: int
    total: int
    bpw: float
    error: float
    """Frobenius norm of the weight's error over that of the weight."""


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What came out."""

    bpw: float
    """Mean over all layers but the head."""
    head_bpw: float
    layers: tuple[LayerReport, ...]
    bytes_written: int
    """Tensor files."""


def convert(
    source: Path,
    target: Path,
    options: ConvertOptions,
    progress: Callable[[LayerReport], None] = lambda report: None,
) -> ConvertReport:
    """Quantize `source` into the new folder `target`.

    The target appears complete or not at all. Equal sources and options give equal
    bytes.

    Raises:
        ConvertError: the options, the architecture or the target are refused.
        FormatError: the source is not a well-formed model.
        OSError: something cannot be read or written.
    """
    options.check()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConvertError(f"{target} exists and is not an empty folder")
    config = read_json_object(source / "config.json")
    tensors = open_model(source)
    plan = plan_conversion(tensors, config, options)
    with _appearing(target) as folder:
        reports = _write_tensors(folder, tensors, plan, options, progress)
        _write_config(folder, config, options)
        _copy_others(source, folder)
        written = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return ConvertReport(
        bpw=mean_bpw(plan.layers),
        head_bpw=mean_bpw([plan.head]),
        layers=tuple(reports),
        bytes_written=written,
    )


def _write_tensors(
    folder: Path,
    tensors: TensorDirectory,
    plan: ConversionPlan,
    options: ConvertOptions,
    progress: Callable[[LayerReport], None],
) -> list[LayerReport]:
    shards = shard(plan.tensors, options.max_shard_bytes)
    reports: list[LayerReport] = []
    with (
        TensorWriter(folder, "output", shards) as writer,
        ThreadPoolExecutor(options.workers) as pool,
    ):
        for kept in plan.kept:
            writer.write(kept.name, _half(tensors, kept.name))
        results = pool.map(lambda job: _quantize(tensors, job), plan.jobs)
        try:
            for job, (linear, error) in zip(plan.jobs, results, strict=True):
                for part, tensor in linear.tensors().items():
                    writer.write(f"{job.key}.{part}", tensor)
                bpw = linear.stored_bits / job.shape.weights
                report = LayerReport(
                    job.key, len(reports) + 1, len(plan.jobs), bpw, error
                )
                reports.append(report)
                progress(report)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return reports


def _quantize(tensors: TensorDirectory, job: LayerJob) -> tuple[Exl2Linear, float]:
    """The layer and the relative Frobenius norm of its error."""
    weight = np.ascontiguousarray(tensors.read(job.weight).T, dtype=np.float32)
    bias = None if job.bias is None else _half(tensors, job.bias)
    try:
        linear = quantize_linear(weight, job.groups, order=_order(weight), bias=bias)
    except ValueError as error:
        raise FormatError(
            tensors.spec(job.weight).file, job.weight, str(error)
        ) from None
    norm = np.linalg.norm(weight)
    weight -= linear.dequantize()
    return linear, float(np.linalg.norm(weight) / norm) if norm else 0.0


def _order(weight: NDArray[np.float32]) -> NDArray[np.intp]:
    """Rows by falling norm: the largest get the wider groups, and rows that share a
    scale are alike, which makes that scale fit them better."""
    with np.errstate(over="ignore"):  # numbers that large are refused later
        norms = np.add.reduce(weight * weight, axis=1)
    return np.argsort(-norms, kind="stable")


def _half(tensors: TensorDirectory, name: str) -> NDArray[np.float16]:
    spec = tensors.spec(name)
    if spec.dtype not in FLOATS:
        raise FormatError(spec.file, name, f"is {spec.dtype}, must be a float")
    tensor: NDArray[Any] = tensors.read(name)
    if tensor.size and not np.abs(tensor).max() <= np.finfo(np.float16).max:
        raise FormatError(spec.file, name, "has numbers beyond float16's range")
    return tensor.astype(np.float16, copy=False)


def _write_config(
    folder: Path, config: dict[str, object], options: ConvertOptions
) -> None:
    dtype_key = "dtype" if "dtype" in config else "torch_dtype"
    quantized = config | {
        dtype_key: "float16",
        "quantization_config": {
            "quant_method": "exl2",
            "version": FORMAT_VERSION,
            "bits": options.bits,
            "head_bits": options.head_bits,
            "calibration": {"rows": 0, "length": 0, "dataset": "(none)"},
        },
    }
    text = json.dumps(quantized, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _copy_others(source: Path, folder: Path) -> None:
    """Tokenizer, templates and licence; README.md is about the source's weights."""
    for file in sorted(source.iterdir()):
        wanted = file.suffix in _COPIED or file.stem.upper() in _COPIED_STEMS
        if file.is_file() and wanted and file.name not in ("config.json", INDEX_NAME):
            shutil.copyfile(file, folder / file.name)


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes it, or vanishes on any error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.partial-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder)
        raise
