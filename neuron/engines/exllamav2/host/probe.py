"""Whether this host can run exllamav2, without importing it or torch."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from neuron.engines.exllamav2.attention.provider import (
    OLDEST_FLASH_ATTN,
    OPT_OUT,
    numbers,
)
from neuron.engines.exllamav2.host import extension
from neuron.engines.exllamav2.host.devices import VISIBLE, visible_to_operator
from neuron.engines.exllamav2.host.extension import Key
from neuron.engines.exllamav2.host.gpus import Gpus, host_gpus
from neuron.engines.exllamav2.host.installed import (
    EXLLAMAV2_VERSION,
    INSTALL,
    TorchBuild,
    release,
    torch_build,
    version_of,
)
from neuron.engines.exllamav2.host.toolchain import python_headers
from neuron.protocol.types import EngineInfo

NAME: Final = "exllamav2"
FORMATS: Final = ("exl2", "gptq", "fp16")
FEATURES: Final = (
    "cancel_prefill", "constraints", "continuous_batching", "draft", "lora", "logprobs",
    "ngram", "paged", "prefix_cache", "prompt_logprobs", "quantized_cache",
    "tensor_parallel", "vision",
)  # fmt: skip
LIBRARIES: Final = {
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "PIL": "pillow",
    "rich": "rich",
}
"""What exllamav2 imports besides torch and NumPy: module → distribution."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the engine needs; `detail` says what is there, or what is not."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None
    """What to do about it, in one line."""

    @property
    def reason(self) -> str:
        """Why the engine cannot run, in one sentence."""
        return f"{self.detail}: {self.mend}" if self.mend else self.detail


def probe() -> EngineInfo:
    """The engine, with the first thing that keeps this host from running it."""
    lacking = (each.reason for each in findings() if not each.ok)
    reason = next(lacking, None)
    return EngineInfo(
        name=NAME,
        available=reason is None,
        reason=reason,
        formats=list(FORMATS),
        features=list(FEATURES),
    )


def findings() -> Iterator[Finding]:
    """All that the engine needs; what is most useful to hear comes first."""
    gpus, torch = host_gpus(), torch_build()
    yield from _gpus(gpus)
    yield from _torch(gpus, torch)
    yield _exllamav2()
    yield _attention()
    yield from _launching()
    yield from _libraries()
    if torch and torch.cuda:
        yield _extension(Key.of(torch, gpus.architectures))


def _gpus(gpus: Gpus) -> Iterator[Finding]:
    if gpus.problem:
        yield Finding("driver", False, gpus.problem)
        return
    assert gpus.cuda is not None
    runs = f"{gpus.driver}, runs CUDA up to {gpus.cuda[0]}.{gpus.cuda[1]}"
    yield Finding("driver", True, runs)
    for gpu in gpus.devices:
        known = ".".join(map(str, gpu.capability)) if gpu.capability else "unknown"
        name = f"{gpu.index}: {gpu.name}, compute capability {known}"
        yield Finding("GPU", True, name)
    if not visible_to_operator([gpu.index for gpu in gpus.devices]):
        hidden = f"{VISIBLE}={os.environ[VISIBLE]} leaves none of these GPUs"
        whole = "name whole GPUs, by nvidia-smi's numbers or UUIDs, or unset it"
        yield Finding("GPU", False, hidden, whole)


def _torch(gpus: Gpus, torch: TorchBuild | None) -> Iterator[Finding]:
    if torch is None:
        yield Finding("torch", False, "torch is not installed", INSTALL)
        return
    if torch.cuda is None:
        built = f"torch {torch.name} was built without CUDA"
        yield Finding("torch", False, built, INSTALL)
        return
    yield Finding("torch", True, torch.name)
    if gpus.cuda and gpus.cuda[0] < int(torch.cuda.partition(".")[0]):
        detail = (
            f"the driver runs CUDA up to {gpus.cuda[0]}.{gpus.cuda[1]} and torch "
            f"{torch.name} needs {torch.cuda}"
        )
        yield Finding("CUDA", False, detail, "update the NVIDIA driver")


def _exllamav2() -> Finding:
    version = version_of("exllamav2")
    if version is None:
        return Finding("exllamav2", False, "exllamav2 is not installed", INSTALL)
    if release(version) != EXLLAMAV2_VERSION:
        wrong = f"exllamav2 {version} is installed and {EXLLAMAV2_VERSION} is needed"
        return Finding("exllamav2", False, wrong, INSTALL)
    return Finding("exllamav2", True, version)


def _attention() -> Finding:
    """What `attention.provider` will take, as far as it shows before it is imported."""
    flash, triton = version_of("flash-attn"), version_of("triton")
    if OPT_OUT in os.environ:
        off = f"exllamav2's paged attention is switched off by {OPT_OUT}"
        return Finding("attention", False, off, f"unset {OPT_OUT}")
    ours = None if triton is None else f"our own kernels, by triton {triton}"
    if flash is None:
        lacks = "neither triton nor flash-attn is installed"
        return Finding("attention", ours is not None, ours or lacks, _mend(ours))
    if numbers(flash) >= OLDEST_FLASH_ATTN:
        instead = f"; {ours}, where it cannot be loaded" if ours else ""
        return Finding("attention", True, f"flash-attn {flash}{instead}")
    oldest = ".".join(map(str, OLDEST_FLASH_ATTN))
    old = f"flash-attn {flash} is older than {oldest}, the first with paged attention"
    detail = f"{ours}; {old}" if ours else f"{old}, and triton is not installed"
    return Finding("attention", ours is not None, detail, _mend(ours))


def _mend(found: str | None) -> str | None:
    return INSTALL if found is None else None


def _launching() -> Iterator[Finding]:
    """What our own kernels are launched with, which Triton compiles at first use."""
    flash = version_of("flash-attn")
    if flash is not None and numbers(flash) >= OLDEST_FLASH_ATTN:
        return
    if version_of("triton") is None:
        return
    named = os.environ.get("CC")
    if not any(map(shutil.which, [named] if named else ["gcc", "clang"])):
        lacks = f"triton finds no C compiler ({named or 'gcc or clang'})"
        yield Finding("triton", False, lacks, "apt install gcc")
    if (headers := python_headers()) is not None:
        lacks = f"triton compiles with {headers.what}, which is not there"
        yield Finding("triton", False, lacks, headers.mend)


def _libraries() -> Iterator[Finding]:
    for module, distribution in LIBRARIES.items():
        if find_spec(module) is None:
            lacks = f"{distribution} is not installed"
            yield Finding("libraries", False, lacks, INSTALL)


def _extension(key: Key) -> Finding:
    found = extension.find(key)
    if found is None:
        return Finding("extension", False, *extension.missing(key))
    if found.manifest is None:
        return Finding("extension", True, f"{found.path}, from elsewhere")
    detail = f"{found.path}, {_size(found.path)}"
    without = [each for each in key.architectures if not found.runs_on(each)]
    if without:
        detail += f"; no code for compute capability {', '.join(without)}"
    return Finding("extension", True, detail)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
