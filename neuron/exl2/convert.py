"""Quantizing a whole Hugging Face model folder into an EXL2 one, on the CPU."""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.conversion_plan import (
    ConversionPlan,
    ConvertError,
    ConvertOptions,
    LayerJob,
    mean_bpw,
    plan_conversion,
)
from neuron.exl2.directory import INDEX_NAME, open_model
from neuron.exl2.errors import FormatError
from neuron.exl2.exl2_linear import Exl2Linear
from neuron.exl2.json_file import read_json_object
from neuron.exl2.new_folder import appearing
from neuron.exl2.quantize import quantize_linear
from neuron.exl2.source import TensorSource, read_half
from neuron.exl2.write import TensorWriter, shard

__all__ = [
    "ConvertError",
    "ConvertOptions",
    "ConvertReport",
    "LayerReport",
    "convert",
    "quantize_into",
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
    config = read_json_object(source / "config.json")
    tensors = open_model(source)
    with appearing(target) as folder:
        report = quantize_into(folder, tensors, config, options, progress)
        _copy_others(source, folder)
    return report


def quantize_into(
    folder: Path,
    tensors: TensorSource,
    config: Mapping[str, object],
    options: ConvertOptions,
    progress: Callable[[LayerReport], None] = lambda report: None,
) -> ConvertReport:
    """Write the tensors and the config.json of an EXL2 model into `folder`.

    Args:
        tensors: the model's, under their Hugging Face names.
        config: its config.json.

    Raises:
        ConvertError: the options or the architecture are refused.
        FormatError: the source is not a well-formed model.
        OSError: something cannot be read or written.
    """
    options.check()
    plan = plan_conversion(tensors, config, options)
    reports = _write_tensors(folder, tensors, plan, options, progress)
    _write_config(folder, config, options)
    return ConvertReport(
        bpw=mean_bpw(plan.layers),
        head_bpw=mean_bpw([plan.head]),
        layers=tuple(reports),
        bytes_written=sum(p.stat().st_size for p in folder.glob("*.safetensors")),
    )


def _write_tensors(
    folder: Path,
    tensors: TensorSource,
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
            writer.write(kept.name, read_half(tensors, kept.name))
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


def _quantize(tensors: TensorSource, job: LayerJob) -> tuple[Exl2Linear, float]:
    """The layer and the relative Frobenius norm of its error."""
    weight = np.ascontiguousarray(tensors.read(job.weight).T, dtype=np.float32)
    bias = None if job.bias is None else read_half(tensors, job.bias)
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


def _write_config(
    folder: Path, config: Mapping[str, object], options: ConvertOptions
) -> None:
    dtype_key = "dtype" if "dtype" in config else "torch_dtype"
    quantized = dict(config) | {
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
