"""The one gate through which exllamav2 is imported.

Nothing in this package imports it, or a module that does, before `load_backend`: an
import without its extension would compile for minutes, and one without paged attention
would leave a generator that computes nothing right.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.attention.provider import AttentionProvider, install
from neuron.engines.exllamav2.host.extension import use_extension


@dataclass(frozen=True, slots=True)
class Backend:
    """The imported library, ready to load models."""

    torch: Any
    """The module `torch`."""
    exllamav2: Any
    """The module `exllamav2`, its submodules `generator`, `attn`, `ext` imported."""
    attention: AttentionProvider


def load_backend() -> Backend:
    """Import exllamav2 with its extension and paged attention in place.

    Raises:
        EngineError: this host lacks something, by code `engine_unavailable`.
    """
    use_extension()
    attention = install()
    try:
        torch = import_module("torch")
        threads = torch.get_num_threads()
        exllamav2 = import_module("exllamav2")
        import_module("exllamav2.generator")
    except ImportError as error:
        raise _unavailable(f"exllamav2 cannot be imported: {error}") from error
    # The library takes the whole process down to one thread.
    torch.set_num_threads(threads)
    if not exllamav2.attn.has_flash_attn_with_paged:
        raise _unavailable(
            f"exllamav2 does not take {attention.name} {attention.version} for paged "
            "attention"
        )
    return Backend(torch, exllamav2, attention)


def _unavailable(message: str) -> EngineError:
    return EngineError(message, code="engine_unavailable")
