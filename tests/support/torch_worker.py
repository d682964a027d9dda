"""`python -m tests.support.torch_worker`: a worker whose exllamav2 needs no GPU.

The process of `neuron.worker` with nothing replaced but how the model is loaded.
"""

import sys
from typing import Final

from neuron.engines import registry
from neuron.worker.process import main
from tests.support import cuda_stack

FATAL_PROMPT: Final = 79
"""A prompt of so many tokens breaks the CUDA context."""


def _serve() -> int:
    cuda_stack.use_cpu_extension()
    from tests.unit.exllamav2.torch_engine import Call, TorchEngine

    def break_down(call: Call) -> None:
        if call.tokens == FATAL_PROMPT - 1:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    TorchEngine.before_call = staticmethod(break_down)
    registry._ENGINES["exllamav2"] = f"{TorchEngine.__module__}:{TorchEngine.__name__}"
    return main()


if __name__ == "__main__":
    sys.exit(_serve())
