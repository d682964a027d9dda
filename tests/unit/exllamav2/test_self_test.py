"""`neuron doctor --deep` imports the backend, in a process of its own."""

import os
from operator import attrgetter
from pathlib import Path

import pytest

from neuron.doctor.exllamav2 import import_backend
from neuron.engines.exllamav2.backend import Backend, load_backend
from neuron.engines.exllamav2.host import self_test
from neuron.engines.exllamav2.host.self_test import compute_on
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


@pytest.fixture
def backend() -> Backend:
    cuda_stack.require("torch", "triton", "exllamav2")
    cuda_stack.use_cpu_extension()
    return load_backend()


def test_everything_that_has_kernels_computes_something(backend: Backend) -> None:
    compute_on(backend, backend.torch.device("cpu"))


@pytest.mark.parametrize(
    ("owner", "name", "part"),
    [("ext.ext_c", "rms_norm", "the extension"),
     ("attn", "flash_attn_with_kvcache", "attention")],
)  # fmt: skip
def test_what_does_not_compute_is_named(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    name: str,
    part: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image\nCompile with TORCH_USE_CUDA")

    monkeypatch.setattr(attrgetter(owner)(backend.exllamav2), name, fail)
    with pytest.raises(RuntimeError, match=f"{part} fails on cpu: CUDA error: no"):
        compute_on(backend, backend.torch.device("cpu"))


def test_the_first_line_of_an_error_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: no kernel image\nCompile with TORCH_USE_CUDA")

    monkeypatch.setattr(self_test, "load_backend", fail)
    assert self_test.main() == 1
    assert capsys.readouterr().err == "CUDA error: no kernel image\n"
