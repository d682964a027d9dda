"""What exllamav2 and our loader ask of CUDA besides kernels, answered on the CPU.

The library's kernels are compiled for the CPU (`cuda_stack`), where any device's memory
is the host's and what is put on a stream is done at once. So streams, events and copies
between devices come to nothing here. A device has its number and what is said to be
free on it; modules are placed, and have scratch and tables, as on GPUs.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, Final

import pytest
from torch.overrides import TorchFunctionMode

from neuron.engines.exllamav2.backend import Backend, load_backend
from tests.support import cuda_stack

GIB: Final = 1 << 30
MOST_DEVICES: Final = 4
_LIBRARY: Final = "exllamav2"


@contextmanager
def emulated_devices(free: Sequence[int] = (GIB,)) -> Iterator[Backend]:
    """The backend, over devices with so many bytes free.

    Args:
        free: of each device; asked for at every use, so that a test may change it.
    """
    cuda_stack.use_cpu_extension()
    backend = load_backend()
    with pytest.MonkeyPatch.context() as patch:
        _emulate_library(patch)
        _emulate_torch(patch, backend.torch.cuda, free)
        # Which GPUs the process sees is put there by every load.
        patch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(MOST_DEVICES))))
        patch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        yield backend


class OnOneMemory(TorchFunctionMode):  # type: ignore[misc]
    """While it is on, tensors asked for on any device, or pinned, are on the CPU.

    For what the library puts on devices by their numbers alone, as split layers are.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)
        if isinstance(kwargs.get("device"), int):
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


def _emulate_library(patch: pytest.MonkeyPatch) -> None:
    streams = {
        device: SimpleNamespace(cuda_stream=device + 1, synchronize=lambda: None)
        for device in range(MOST_DEVICES)
    }
    replacements: dict[str, Any] = {
        "_torch_device": lambda _: "cpu",
        "safe_move_tensor": _stay,
        "set_device_streams": lambda: None,
        "global_streams": streams,
    }
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == _LIBRARY:
            for attribute, instead in replacements.items():
                if hasattr(module, attribute):
                    patch.setattr(module, attribute, instead)


def _emulate_torch(patch: pytest.MonkeyPatch, cuda: Any, free: Sequence[int]) -> None:
    nothing = {"synchronize": None, "set_stream": None, "memory_reserved": 0}
    for name, answer in {**nothing, "memory_allocated": 0}.items():
        patch.setattr(cuda, name, lambda *_, answer=answer: answer)
    patch.setattr(cuda, "device", lambda _: nullcontext())
    patch.setattr(cuda, "mem_get_info", lambda device=0: (free[device], free[device]))


def _stay(tensor: Any, device: Any, non_blocking: bool = False) -> Any:
    """The library's copy between devices: there is but one memory."""
    return tensor
