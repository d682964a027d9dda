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

from neuron.exl2.architectures import (
    EMBEDDING,
    HEAD,
    SUPPORTED,
    kept_names,
    linear_keys,
)
from neuron.exl2.bitstream import WIDTHS
from neuron.exl2.directory import INDEX_NAME, TensorDirectory, open_model
from neuron.exl2.errors import FormatError
from neuron.exl2.exl2_linear import Exl2Linear
from neuron.exl2.json_file import read_json_object
from neuron.exl2.quantize import quantize_linear
from neuron.exl2.recipe import (
    GroupPlan,
    LayerShape,
    mixed,
    stored_bits,
    uniform,
)
from neuron.exl2.write import TensorPlan, TensorWriter, shard

FORMAT_VERSION: Final = "0.3.2"
"""The exllamav2 release whose files these are like."""
_FLOATS: Final = ("F16", "BF16", "F32")
_COPIED: Final = (".json", ".jinja", ".model", ".tiktoken", ".txt")
_COPIED_STEMS: Final = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")


class ConvertError(Exception):
    """The conversion is refused; nothing was written."""


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What the result should be like."""

    bits: float
    """Mean bits per weight of the layers without the head, all overhead included."""
    head_bits: int = 6
    """Width of every level in lm_head; its overhead comes on top."""
    group_rows: int = 32
    """Rows that share a scale."""
    max_shard_bytes: int = 8 << 30
    workers: int = 1
    """Layers quantized at a time; the result does not depend on it."""


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


@dataclass(frozen=True, slots=True)
class _Job:
    """One linear layer to quantize."""

    key: str
    weight: str
    """Name of its weight in the source; the embedding where the head is tied."""
    bias: str | None
    shape: LayerShape
    plan: GroupPlan


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
    _check_options(options)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConvertError(f"{target} exists and is not an empty folder")
    config = read_json_object(source / "config.json")
    tensors = open_model(source)
    jobs, kept = _jobs(tensors, config, options)
    with _appearing(target) as folder:
        reports = _write_tensors(folder, tensors, jobs, kept, options, progress)
        _write_config(folder, config, options)
        _copy_others(source, folder)
        written = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return ConvertReport(
        bpw=_mean_bpw(jobs[:-1]),
        head_bpw=_mean_bpw(jobs[-1:]),
        layers=tuple(reports),
        bytes_written=written,
    )


def _check_options(options: ConvertOptions) -> None:
    if options.head_bits not in WIDTHS:
        raise ConvertError(
            f"head_bits must be one of {sorted(WIDTHS)}, not {options.head_bits}"
        )
    if not min(WIDTHS) <= options.bits <= max(WIDTHS):
        raise ConvertError(
            f"bits must be within {min(WIDTHS)} and {max(WIDTHS)}, not {options.bits}"
        )


def _jobs(
    tensors: TensorDirectory, config: dict[str, object], options: ConvertOptions
) -> tuple[list[_Job], list[str]]:
    """The layers to quantize, head last, and the names of the tensors to keep."""
    layers, tied = _read_config(tensors, config)
    keys = linear_keys(layers)
    try:
        kept = kept_names(tensors.specs, keys, tied=tied)
    except ValueError as error:
        raise ConvertError(f"{tensors.path}: {error}") from None
    head_weight = EMBEDDING if tied else f"{HEAD}.weight"
    shapes = [_shape(tensors, f"{key}.weight") for key in keys]
    head = _shape(tensors, head_weight)
    try:
        plans = mixed(shapes, options.bits, options.group_rows)
        head_plan = uniform(head, options.head_bits, options.group_rows)
    except ValueError as error:
        raise ConvertError(f"{tensors.path}: {error}") from None

    def job(key: str, weight: str, shape: LayerShape, plan: GroupPlan) -> _Job:
        bias = f"{key}.bias" if f"{key}.bias" in tensors.specs else None
        return _Job(key, weight, bias, shape, plan)

    jobs = [
        job(key, f"{key}.weight", shape, plan)
        for key, shape, plan in zip(keys, shapes, plans, strict=True)
    ]
    return [*jobs, job(HEAD, head_weight, head, head_plan)], kept


def _read_config(
    tensors: TensorDirectory, config: dict[str, object]
) -> tuple[int, bool]:
    """(number of layers, whether the head is tied), if the model is one of ours."""
    file = tensors.path / "config.json"
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in SUPPORTED:
        raise ConvertError(
            f"{file}: architecture {name} is not supported; these are: "
            f"{', '.join(SUPPORTED)}"
        )
    if "quantization_config" in config:
        raise ConvertError(f"{file}: the model is quantized already")
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        raise FormatError(file, None, "num_hidden_layers must be a positive integer")
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise FormatError(file, None, "tie_word_embeddings must be true or false")
    return layers, tied


def _shape(tensors: TensorDirectory, name: str) -> LayerShape:
    """Shape of a stored [out_features, in_features] weight."""
    spec = tensors.spec(name)
    if spec.dtype not in _FLOATS or len(spec.shape) != 2 or 0 in spec.shape:
        raise FormatError(
            spec.file,
            name,
            f"is {spec.dtype} {list(spec.shape)}, must be a float matrix",
        )
    return LayerShape(in_features=spec.shape[1], out_features=spec.shape[0])


def _write_tensors(
    folder: Path,
    tensors: TensorDirectory,
    jobs: list[_Job],
    kept: list[str],
    options: ConvertOptions,
    progress: Callable[[LayerReport], None],
) -> list[LayerReport]:
    plans = [TensorPlan(name, "F16", tensors.spec(name).shape) for name in kept]
    for job in jobs:
        plans += _planned(job)
    reports: list[LayerReport] = []
    with (
        TensorWriter(folder, "output", shard(plans, options.max_shard_bytes)) as writer,
        ThreadPoolExecutor(options.workers) as pool,
    ):
        for name in kept:
            writer.write(name, _half(tensors, name))
        results = pool.map(lambda job: _quantize(tensors, job), jobs)
        try:
            for job, (linear, error) in zip(jobs, results, strict=True):
                for part, tensor in linear.tensors().items():
                    writer.write(f"{job.key}.{part}", tensor)
                bpw = linear.stored_bits / job.shape.weights
                report = LayerReport(job.key, len(reports) + 1, len(jobs), bpw, error)
                reports.append(report)
                progress(report)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return reports


def _planned(job: _Job) -> list[TensorPlan]:
    """The tensors that `Exl2Linear.tensors` is going to give for the job."""
    groups, columns = len(job.plan), job.shape.columns
    words = sum(bits * rows for bits, rows in job.plan) // 32
    plans = [
        TensorPlan(f"{job.key}.q_groups", "I16", (2 * groups,)),
        TensorPlan(f"{job.key}.q_invperm", "I32", (job.shape.in_features,)),
        TensorPlan(f"{job.key}.q_scale", "I32", (groups, columns // 8)),
        TensorPlan(f"{job.key}.q_scale_max", "F16", (groups,)),
        TensorPlan(f"{job.key}.q_weight", "I32", (words, columns)),
    ]
    if job.bias is not None:
        plans.append(TensorPlan(f"{job.key}.bias", "F16", (job.shape.out_features,)))
    return plans


def _quantize(tensors: TensorDirectory, job: _Job) -> tuple[Exl2Linear, float]:
    """The layer and the relative Frobenius norm of its error."""
    weight = np.ascontiguousarray(tensors.read(job.weight).T, dtype=np.float32)
    bias = None if job.bias is None else _half(tensors, job.bias)
    try:
        linear = quantize_linear(weight, job.plan, order=_order(weight), bias=bias)
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
    if spec.dtype not in _FLOATS:
        raise FormatError(spec.file, name, f"is {spec.dtype}, must be a float")
    tensor: NDArray[Any] = tensors.read(name)
    if tensor.size and not np.abs(tensor).max() <= np.finfo(np.float16).max:
        raise FormatError(spec.file, name, "has numbers beyond float16's range")
    return tensor.astype(np.float16, copy=False)


def _mean_bpw(jobs: list[_Job]) -> float:
    bits = sum(stored_bits(job.shape, job.plan) for job in jobs)
    return bits / sum(job.shape.weights for job in jobs)


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
    text = json.dumps(quantized, indent=2, ensure_ascii=False) + "\n"
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
