"""What keeps a host from serving through exllamav2, the most useful thing first."""

import json
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.exllamav2.host.gpus import Gpu, Gpus, find_gpus
from tests.unit.daemon import fake_nvml
from tests.unit.exllamav2.fake_host import FakeHost, complete_host

PROBE = """
import sys
from neuron.engines.exllamav2.host.probe import probe
print(probe().model_dump_json())
assert not {"torch", "triton", "exllamav2", "exllamav2_ext"} & set(sys.modules)
"""


def probed(host: FakeHost) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(host.evaluate(PROBE))
    return answer


def test_one_thing_after_the_other(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    assert probed(host)["reason"] == "no NVIDIA driver"
    host.gpu()
    assert probed(host)["reason"] == (
        "torch is not installed: pip install 'cortex-tui[cuda]'"
    )
    host.torch()
    assert probed(host)["reason"].startswith("exllamav2 is not installed: pip install")
    host.exllamav2()
    assert probed(host)["reason"].startswith(
        "neither triton nor flash-attn is installed"
    )
    host.attention()
    assert probed(host)["reason"].startswith("safetensors is not installed")
    for module in ("safetensors", "PIL"):
        host.write(f"site/{module}/__init__.py")
    reason = probed(host)["reason"]
    assert reason.endswith("-torch2.11.0-cu130-sm90: run `neuron build-ext`")
    host.toolkit()
    assert host.run("build-ext").returncode == 0
    answer = probed(host)
    assert (answer["available"], answer["reason"]) == (True, None)
    assert answer["formats"] == ["exl2", "gptq", "fp16"]
    assert "paged" in answer["features"]


def test_what_is_installed_must_fit(tmp_path: Path) -> None:
    host = complete_host(tmp_path)
    host.gpu(driver=12040)
    for module in ("safetensors", "PIL"):
        host.write(f"site/{module}/__init__.py")
    assert probed(host)["reason"] == (
        "the driver runs CUDA up to 12.4 and torch 2.11.0+cu130 needs 13.0: "
        "update the NVIDIA driver"
    )
    host.gpu()
    (tmp_path / "site/exllamav2-0.3.2.dist-info/METADATA").unlink()
    (tmp_path / "site/exllamav2-0.3.2.dist-info").rmdir()
    host.exllamav2(version="0.2.9")
    assert probed(host)["reason"].startswith(
        "exllamav2 0.2.9 is installed and 0.3.2 is needed"
    )
    host.torch(cuda=None)
    assert "torch 2.11.0+cpu was built without CUDA" in probed(host)["reason"]


def test_gpus_are_what_nvml_says() -> None:
    library = fake_nvml.FakeNvml(fake_nvml.Gpu(), fake_nvml.Gpu("second"))
    gpus = find_gpus(library)
    assert gpus == Gpus(
        (Gpu(0, "NVIDIA GeForce RTX 4090", (8, 9)), Gpu(1, "second", (8, 9))),
        driver="580.95.05",
        cuda=(13, 0),
    )
    assert gpus.architectures == ("8.9",)


@pytest.mark.parametrize(
    ("library", "problem"),
    [
        (fake_nvml.FakeNvml(init_error=12), "no NVIDIA driver"),
        (fake_nvml.FakeNvml(init_error=9), "no NVIDIA driver"),
        (
            fake_nvml.FakeNvml(init_error=18),
            "NVML does not start: cannot initialise",
        ),
        (fake_nvml.FakeNvml(), "the NVIDIA driver finds no GPU"),
    ],
)
def test_no_gpu_has_a_reason(library: fake_nvml.FakeNvml, problem: str) -> None:
    assert find_gpus(library).problem == problem


def test_a_gpu_that_does_not_answer_does_not_hide_the_others() -> None:
    silent = fake_nvml.Gpu("silent", failing={"nvmlDeviceGetName": 15})
    unknown = fake_nvml.Gpu(
        "unknown", failing={"nvmlDeviceGetCudaComputeCapability": 3}
    )
    gpus = find_gpus(fake_nvml.FakeNvml(silent, unknown, fake_nvml.Gpu()))
    assert [gpu.name for gpu in gpus.devices] == ["unknown", "NVIDIA GeForce RTX 4090"]
    assert gpus.architectures == ("8.9",)
