"""Imports the backend and computes on each GPU; for `neuron doctor --deep`.

Run as a process of its own: it prints what worked as one JSON string, or fails with the
reason in the last line of stderr.
"""

import json
import sys
from collections.abc import Callable
from typing import Any, Final

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.backend import Backend, load_backend

_SIZE: Final = 64


def main() -> int:
    """0 where everything worked."""
    try:
        backend = load_backend()
        gpus = compute_on_every_gpu(backend)
    except (EngineError, RuntimeError) as error:
        # What CUDA says beyond its first line is the same for every error.
        sys.stderr.write(str(error).partition("\n")[0] + "\n")
        return 1
    attention = backend.attention
    sys.stdout.write(
        json.dumps(
            f"torch {backend.torch.__version__}, attention by {attention.name} "
            f"{attention.version}, computed on {gpus} GPUs"
        )
        + "\n"
    )
    return 0


def compute_on_every_gpu(backend: Backend) -> int:
    """Number of GPUs, on each of which everything has computed something.

    Raises:
        RuntimeError: torch finds no GPU, or one on which something does not compute.
    """
    count = int(backend.torch.cuda.device_count())
    if not count:
        raise RuntimeError("torch finds no GPU")
    for index in range(count):
        compute_on(backend, backend.torch.device("cuda", index))
    return count


def compute_on(backend: Backend, device: Any) -> None:
    """Let all that has kernels of its own compute a matrix of ones.

    Raises:
        RuntimeError: one of them does not.
    """
    ones = backend.torch.ones((_SIZE, _SIZE), dtype=backend.torch.half, device=device)
    for name, compute in _PARTS.items():
        try:
            right = bool((compute(backend, ones) == 1).all())
        except RuntimeError as error:
            raise RuntimeError(f"{name} fails on {device}: {error}") from error
        if not right:
            raise RuntimeError(f"{name} computes something else than ones on {device}")


def _multiply(_: Backend, ones: Any) -> Any:
    return ones @ ones / _SIZE


def _normalize(backend: Backend, ones: Any) -> Any:
    result = 0 * ones
    backend.exllamav2.ext.ext_c.rms_norm(2 * ones, ones[0], result, 0.0)
    return result


def _attend(backend: Backend, ones: Any) -> Any:
    """One query to 64 keys in a page."""
    torch, page = backend.torch, ones.view(1, _SIZE, 1, _SIZE)
    numbers = {"dtype": torch.int32, "device": ones.device}
    return backend.exllamav2.attn.flash_attn_with_kvcache(
        page[:, :1],
        page,
        page,
        cache_seqlens=torch.tensor([_SIZE], **numbers),
        block_table=torch.zeros((1, 1), **numbers),
        causal=True,
    )


_PARTS: Final[dict[str, Callable[[Backend, Any], Any]]] = {
    "torch": _multiply,
    "the extension": _normalize,
    "attention": _attend,
}


if __name__ == "__main__":
    sys.exit(main())
