"""Whether this host can run exllamav2, without importing it or torch."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

from neuron.engines.exllamav2 import extension
from neuron.engines.exllamav2.extension import Key
from neuron.engines.exllamav2.gpus import Gpus, find_gpus
from neuron.engines.exllamav2.installed import (
    EXLLAMAV2_VERSION,
    INSTALL,
    TorchBuild,
    torch_build,
    version_of,
)
from neuron.protocol.types import EngineInfo

NAME: Final = "exllamav2"
FORMATS: Final = ("exl2", "gptq", "fp16")
FEATURES: Final = (
    "cancel_prefill", "constraints", "continuous_batching", "logprobs", "paged",
    "prefix_cache", "prompt_logprobs",
)  # fmt: skip
PACKAGES: Final = {
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "PIL": "pillow",
    "rich": "rich",
}
"""What exllamav2 imports besides torch and NumPy: module → distribution."""


def probe() -> EngineInfo:
    """The engine, with the first thing that keeps this host from running it."""
    gpus = find_gpus()
    torch = torch_build()
    reason = next(lacking(gpus, torch), None)
    return EngineInfo(
        name=NAME,
        available=reason is None,
        reason=reason,
        formats=list(FORMATS),
        features=list(FEATURES),
    )


def lacking(gpus: Gpus, torch: TorchBuild | None) -> Iterator[str]:
    """What is missing here, the most useful to hear first."""
    if gpus.problem:
        yield gpus.problem
    yield from _packages(torch)
    if torch is None:
        return
    if torch.cuda is None:
        yield f"torch {torch.name} was built without CUDA: {INSTALL}"
        return
    if gpus.cuda and gpus.cuda[0] < int(torch.cuda.partition(".")[0]):
        yield (
            f"the driver runs CUDA up to {gpus.cuda[0]}.{gpus.cuda[1]} and torch "
            f"{torch.name} needs {torch.cuda}: update the NVIDIA driver"
        )
    key = Key.of(torch, gpus.architectures)
    if extension.find(key) is None:
        yield extension.missing(key)


def _packages(torch: TorchBuild | None) -> Iterator[str]:
    if torch is None:
        yield f"torch is not installed: {INSTALL}"
    version = version_of("exllamav2")
    if version is None:
        yield f"exllamav2 is not installed: {INSTALL}"
    elif version.partition("+")[0] != EXLLAMAV2_VERSION:
        yield (
            f"exllamav2 {version} is installed and {EXLLAMAV2_VERSION} is needed: "
            f"{INSTALL}"
        )
    if not has_attention():
        yield f"triton is not installed, nor flash-attn: {INSTALL}"
    for module, distribution in PACKAGES.items():
        if find_spec(module) is None:
            yield f"{distribution} is not installed: {INSTALL}"


def has_attention() -> bool:
    """Whether paged attention has something to come from."""
    return find_spec("triton") is not None or version_of("flash-attn") is not None
