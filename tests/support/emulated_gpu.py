"""pytest plugin that lets the checks of a GPU run on the CPU, over emulated kernels.

`python -m pytest -p tests.support.emulated_gpu -n 0 tests/gpu/test_agreement.py …`

Nothing is recorded as a CUDA graph, and no GPU's time or memory is measured: files of
checks that are about these mean nothing here.
"""

import os
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from tests.unit.daemon import fake_nvml

_BYTES: Final = 8 << 30
_TIMEOUT_S: Final = 600
_LEVERS: Final = {"CUDA_GRAPHS": "off", "WARMUP": "off"}

# Before anything of ours imports it.
sys.modules["pynvml"] = fake_nvml.FakeNvml(  # type: ignore[assignment]
    fake_nvml.Gpu("emulated", total=_BYTES, used=0)
)
os.environ["CUDA_VISIBLE_DEVICES"] = "0"
for _name, _value in _LEVERS.items():
    os.environ.setdefault(f"NEURON_EXLLAMAV2_{_name}", _value)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[None]:
    """Emulate for as long as tests run."""
    from tests.support.emulated_devices import emulated_devices

    with emulated_devices([_BYTES]):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Give each as long as it takes, before it gets what it takes on a GPU."""
    for item in items:
        item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Let checks be collected as where there is a GPU."""
    import torch

    def available() -> bool:
        return True

    torch.cuda.is_available = available
