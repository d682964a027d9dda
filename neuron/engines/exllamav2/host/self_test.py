"""Imports the backend and computes on each GPU; for `neuron doctor --deep`.

Run as a process of its own: it prints what worked as one JSON string, or fails with the
reason in the last line of stderr.
"""

import json
import sys

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.backend import Backend, load_backend


def main() -> int:
    """0 where everything worked."""
    try:
        backend = load_backend()
        gpus = compute_on_every_gpu(backend)
    except (EngineError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
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
    """Number of GPUs; each has multiplied two small matrices.

    Raises:
        RuntimeError: torch finds no GPU, or one that does not compute.
    """
    torch = backend.torch
    count = int(torch.cuda.device_count())
    if not count:
        raise RuntimeError("torch finds no GPU")
    for index in range(count):
        ones = torch.ones((64, 64), dtype=torch.half, device=f"cuda:{index}")
        if not bool(((ones @ ones) == 64).all()):
            raise RuntimeError(f"GPU {index} computes 64 ones as something else")
    return count


if __name__ == "__main__":
    sys.exit(main())
