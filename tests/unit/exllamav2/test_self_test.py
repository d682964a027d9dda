"""`neuron doctor --deep` imports the backend, in a process of its own."""

import os
from pathlib import Path

import pytest

from neuron.doctor.exllamav2 import import_backend
from tests.support import cuda_stack

pytestmark = pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S)
ROOT = Path(__file__).parents[3]


def test_it_imports_everything_and_looks_for_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda_stack.require("torch", "triton", "exllamav2")
    import torch

    folders = [str(cuda_stack.cpu_extension()), str(ROOT)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    check = import_backend()
    if torch.cuda.is_available():
        assert check.state == "ok"
        assert f"computed on {torch.cuda.device_count()} GPUs" in check.detail
    else:
        assert (check.state, check.detail) == ("lacks", "torch finds no GPU")


def test_a_backend_that_takes_too_long_is_given_up() -> None:
    check = import_backend(deadline_s=0.01)
    assert (check.state, check.detail) == ("lacks", "not imported within 0 s")
