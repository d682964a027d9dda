"""Paged attention for exllamav2: a real flash-attn where one works, else our own.

exllamav2 looks for two modules, `flash_attn` and `flash_attn_2_cuda`, when it is
imported. `install` puts ours where these would be.
"""

import importlib
import inspect
import logging
import os
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from neuron.engines.base import EngineError

OLDEST_FLASH_ATTN: Final = (2, 5, 7)
"""The first that has paged attention."""
_SPOKEN_VERSION: Final = "2.8.3"
"""The flash-attn whose functions ours follow; exllamav2 compares it."""
_MODULES: Final = ("flash_attn", "flash_attn_2_cuda")
_FUNCTIONS: Final = (
    "flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"
)  # fmt: skip
OPT_OUT: Final = "EXLLAMA_NO_FLASH_ATTN"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttentionProvider:
    """What computes attention in this process."""

    name: str
    """`flash-attn`, or `triton` for our own kernels."""
    version: str
    """flash-attn's, or triton's."""
    features: frozenset[str]
    """`paged`, `window`, `softcap`."""


_installed: AttentionProvider | None = None


def install() -> AttentionProvider:
    """Make exllamav2 find paged attention; to be called before it is imported.

    Further calls change nothing and return the same.

    Raises:
        EngineError: neither torch nor triton is there, or attention is switched off by
            exllamav2's environment variable.
    """
    global _installed
    if _installed is None:
        if OPT_OUT in os.environ:
            raise _unavailable(f"unset {OPT_OUT}: exllamav2 needs paged attention")
        if "exllamav2.attn" in sys.modules:
            raise RuntimeError("exllamav2 was imported before its attention provider")
        _installed = _real() or _own()
    return _installed


def _real() -> AttentionProvider | None:
    """flash-attn itself, where it is installed and its binary loads."""
    try:
        module = importlib.import_module("flash_attn")
        version = str(module.__version__)
        if numbers(version) < OLDEST_FLASH_ATTN:
            raise ImportError(f"version {version} has no paged attention")
        functions = [getattr(module, name) for name in _FUNCTIONS]
        importlib.import_module("flash_attn_2_cuda")
    except ModuleNotFoundError as error:
        if error.name == "flash_attn":
            return None
        _forget(error)
        return None
    except (ImportError, AttributeError, OSError) as error:
        _forget(error)
        return None
    known = inspect.signature(functions[0]).parameters
    features = {"paged"}
    features |= {"window"} if "window_size" in known else set()
    features |= {"softcap"} if "softcap" in known else set()
    return AttentionProvider("flash-attn", version, frozenset(features))


def _forget(error: Exception) -> None:
    """Say why an installed flash-attn is not used, and drop what was imported of it."""
    _log.warning("the installed flash-attn cannot be used, and is not: %s", error)
    for name in list(sys.modules):
        if name.partition(".")[0] in _MODULES:
            del sys.modules[name]


def _own() -> AttentionProvider:
    try:
        triton = importlib.import_module("triton")
        flash = importlib.import_module("neuron.engines.exllamav2.attention.flash")
    except ImportError as error:
        raise _unavailable(
            f"paged attention needs torch and triton, or flash-attn: {error}"
        ) from error
    names = {"flash_attn": _FUNCTIONS, "flash_attn_2_cuda": ("fwd_kvcache",)}
    for module_name, functions in names.items():
        module = ModuleType(module_name, "Paged attention by neuron.")
        module.__spec__ = ModuleSpec(module_name, loader=None)
        module.__dict__["__version__"] = _SPOKEN_VERSION
        for name in functions:
            module.__dict__[name] = getattr(flash, name)
        sys.modules[module_name] = module
    features = frozenset({"paged", "window", "softcap"})
    return AttentionProvider("triton", str(triton.__version__), features)


def numbers(version: str) -> tuple[int, ...]:
    """As exllamav2 reads a version: those of its parts that are numbers."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _unavailable(message: str) -> EngineError:
    return EngineError(message, code="engine_unavailable")
