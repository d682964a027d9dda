"""GPUs as NVML tells them, and hosts that have none."""

from pathlib import Path

import pynvml
import pytest

from neuron.daemon.hardware import Hardware, host_facts, read_meminfo
from neuron.daemon.nvml import Nvml
from neuron.protocol.types import DeviceHealth
from tests.unit.daemon.fake_nvml import GIB, FakeNvml, Gpu


def test_devices_are_found_with_their_facts() -> None:
    inventory = Nvml(FakeNvml(Gpu(), Gpu(name="NVIDIA RTX 3060"))).discover()
    assert (inventory.driver, inventory.cuda, inventory.problem) == (
        "580.95.05",
        "13.0",
        None,
    )
    first, second = inventory.devices
    assert (first.index, second.index) == (0, 1)
    assert first.vram_total_mb == 24 * 1024
    assert first.compute_capability == "8.9"
    assert (first.pcie_generation, first.pcie_width) == (4, 16)
    assert second.name == "NVIDIA RTX 3060"


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
)
def test_a_host_without_nvidia_has_no_devices_and_no_problem(code: int) -> None:
    inventory = Nvml(FakeNvml(init_error=code)).discover()
    assert inventory.devices == ()
    assert inventory.problem is None


def test_a_driver_mismatch_is_said_with_its_remedy() -> None:
    code = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    problem = Nvml(FakeNvml(init_error=code)).discover().problem
    assert problem is not None
    assert "mismatch" in problem
    assert "reboot" in problem


def test_any_other_failure_is_a_problem_too() -> None:
    problem = Nvml(FakeNvml(init_error=pynvml.NVML_ERROR_NO_PERMISSION)).discover()
    assert problem.problem == "NVML does not start: cannot initialise"


def sampled(nvml: Nvml) -> DeviceHealth:
    (device,) = nvml.sample().devices
    return device


def test_a_sample_has_every_number() -> None:
    nvml = Nvml(FakeNvml(Gpu()))
    nvml.discover()
    assert sampled(nvml) == DeviceHealth(
        index=0,
        vram_used_mb=4 * 1024,
        vram_free_mb=20 * 1024,
        utilization_pct=87,
        temperature_c=61,
        power_w=312.5,
        power_limit_w=450,
    )


def test_a_passing_failure_keeps_the_last_values() -> None:
    gpu = Gpu()
    nvml = Nvml(FakeNvml(gpu))
    nvml.discover()
    before = sampled(nvml)
    gpu.failing = {
        "nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_TIMEOUT,
    }
    assert sampled(nvml) == before
    gpu.failing = {"nvmlDeviceGetTemperature": pynvml.NVML_ERROR_TIMEOUT}
    assert sampled(nvml) == before


def test_what_a_device_cannot_tell_is_unknown_and_not_zero() -> None:
    missing = pynvml.NVML_ERROR_NOT_SUPPORTED
    gpu = Gpu(failing={"nvmlDeviceGetPowerUsage": missing,
                       "nvmlDeviceGetUtilizationRates": missing})  # fmt: skip
    nvml = Nvml(FakeNvml(gpu))
    nvml.discover()
    device = sampled(nvml)
    assert (device.power_w, device.utilization_pct) == (None, None)
    assert device.temperature_c == 61


def test_a_lost_device_stays_listed_without_numbers() -> None:
    gpu, other = Gpu(), Gpu(name="NVIDIA RTX 3060")
    nvml = Nvml(FakeNvml(gpu, other))
    nvml.discover()
    nvml.sample()
    gpu.failing = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_GPU_IS_LOST}
    for _ in range(2):
        lost, well = nvml.sample().devices
        assert lost == DeviceHealth(index=0)
        assert well.vram_used_mb == 4 * 1024


async def test_our_share_is_told_from_others() -> None:
    gpu = Gpu(processes={100: GIB, 200: 2 * GIB, 300: None})
    hardware = Hardware(Nvml(FakeNvml(gpu)))
    await hardware.start()
    try:
        (device,) = hardware.devices({100, 300})
        assert device.vram_ours_mb == 1024
        assert hardware.vram_of(200) == 2 * GIB
        assert hardware.vram_of(300) is None
        assert hardware.vram_of(None) is None
        assert hardware.vram_free_bytes() == {0: 20 * GIB}
        assert hardware.ram_total_bytes
        assert hardware.ram_available_bytes
    finally:
        await hardware.close()


def test_memory_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert read_meminfo(tmp_path / "absent") == {}
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  16 kB\nHugePages_Total:       0\nodd line\n")
    assert read_meminfo(file)["MemTotal"] == 16 * 1024


def test_this_host_has_a_name() -> None:
    assert all(host_facts().values())
