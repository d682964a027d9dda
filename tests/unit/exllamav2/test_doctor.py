"""`neuron doctor`, as it is typed, on a host made up of files."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from neuron.doctor.host import check_models_folder, check_port, container_limit
from neuron.doctor.report import Check, EngineReport, Report
from neuron.protocol.address import Address
from tests.unit.exllamav2.fake_host import FakeHost, complete_host

SECOND_GPU = """
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetCudaComputeCapability(handle): return (6, 1) if handle else (9, 0)
"""
OTHER_DRIVER = """
class NVMLError(Exception):
    value = 18
def nvmlInit(): raise NVMLError("Driver/library version mismatch")
"""


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def with_gpu(root: Path) -> FakeHost:
    host = complete_host(root)
    host.gpu()
    for module in ("safetensors", "PIL"):
        host.write(f"site/{module}/__init__.py")
    return host


def looked_at(host: FakeHost, port: int, *options: str) -> tuple[int, dict[str, Any]]:
    host.write("config/cortex/neuron.toml", f'listen = "127.0.0.1:{port}"\n')
    done = host.run("doctor", "--json", *options)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def checks(report: dict[str, Any], engine: str = "exllamav2") -> dict[str, Any]:
    (found,) = (each for each in report["engines"] if each["name"] == engine)
    return {check["name"]: check for check in found["checks"]}


def test_a_host_without_a_gpu_serves_by_the_reference_engine(
    tmp_path: Path, free_port: int
) -> None:
    host = FakeHost(tmp_path)
    status, report = looked_at(host, free_port)
    assert (status, report["can_serve"]) == (0, True)
    assert checks(report)["driver"]["detail"] == "no NVIDIA driver"
    assert checks(report)["torch"]["mend"] == "pip install 'cortex-tui[cuda]'"
    assert "exl2" in checks(report, "reference")["probe"]["detail"]
    status, _ = looked_at(host, free_port, "--engine", "exllamav2")
    assert status == 1


def test_a_host_that_lacks_the_extension_is_told_how_to_build_it(
    tmp_path: Path, free_port: int
) -> None:
    host = with_gpu(tmp_path)
    (tmp_path / "cuda/include/cusparse.h").unlink()
    status, report = looked_at(host, free_port, "--engine", "exllamav2")
    assert status == 1
    lacking = [c for c in checks(report).values() if c["state"] == "lacks"]
    assert [each["name"] for each in lacking] == ["extension"]
    assert lacking[0]["mend"] == "run `neuron build-ext`"
    compiling = checks(report)["compiling"]
    assert compiling["state"] == "note"
    assert compiling["detail"] == "cusparse.h is missing, needed to build the extension"
    assert compiling["mend"] == "pip install 'cuda-toolkit[cusparse]==13.0.*'"

    host.toolkit()
    assert host.run("build-ext").returncode == 0
    status, report = looked_at(host, free_port, "--engine", "exllamav2")
    assert status == 0
    assert all(check["state"] == "ok" for check in checks(report).values())
    assert str(host.kept) in checks(report)["extension"]["detail"]
    assert checks(report)["GPU"]["detail"] == (
        "0: NVIDIA H100 80GB HBM3, compute capability 9.0"
    )


def test_a_gpu_that_the_extension_has_no_code_for_is_named(
    tmp_path: Path, free_port: int
) -> None:
    host = with_gpu(tmp_path)
    assert host.run("build-ext").returncode == 0
    host.write("site/pynvml.py", (host.site / "pynvml.py").read_text() + SECOND_GPU)
    status, report = looked_at(host, free_port, "--engine", "exllamav2")
    assert status == 0
    detail = checks(report)["extension"]["detail"]
    assert detail.endswith("; no code for compute capability 6.1")


def attention(host: FakeHost, port: int) -> tuple[str, str]:
    _, report = looked_at(host, port, "--engine", "exllamav2")
    check = checks(report)["attention"]
    return check["state"], check["detail"]


def test_the_attention_that_will_be_used_is_named_and_why(
    tmp_path: Path, free_port: int
) -> None:
    host = FakeHost(tmp_path)
    host.gpu()
    host.distribution("flash_attn", "2.5.6")
    state, detail = attention(host, free_port)
    assert state == "lacks"
    assert "2.5.6 is older than 2.5.7" in detail
    assert detail.endswith("and triton is not installed")
    host.attention()
    state, detail = attention(host, free_port)
    assert state == "ok"
    assert detail.startswith("our own kernels, by triton 3.6.0; flash-attn 2.5.6 is")
    shutil.rmtree(host.site / "flash_attn-2.5.6.dist-info")
    host.distribution("flash_attn", "2.8.3")
    assert attention(host, free_port) == (
        "ok",
        "flash-attn 2.8.3; our own kernels, by triton 3.6.0, where it cannot be loaded",
    )
    host.extra["EXLLAMA_NO_FLASH_ATTN"] = "1"
    state, detail = attention(host, free_port)
    assert (state, "switched off" in detail) == ("lacks", True)


def test_a_host_without_a_c_compiler_cannot_launch_our_kernels(
    tmp_path: Path, free_port: int
) -> None:
    host = with_gpu(tmp_path)
    host.extra["CC"] = "/nowhere/cc"
    host.extra["PATH"] = "/nowhere"
    _, report = looked_at(host, free_port, "--engine", "exllamav2")
    check = checks(report)["triton"]
    assert (check["state"], check["mend"]) == ("lacks", "apt install gcc")
    assert check["detail"] == "triton finds no C compiler (/nowhere/cc)"
    del host.extra["CC"]
    _, report = looked_at(host, free_port, "--engine", "exllamav2")
    assert checks(report)["triton"]["detail"].endswith("(gcc or clang)")
    host.distribution("flash_attn", "2.8.3")
    _, report = looked_at(host, free_port, "--engine", "exllamav2")
    assert "triton" not in checks(report)


@pytest.mark.parametrize("visible", ["", "1", "MIG-5c3e"])
def test_gpus_that_the_environment_hides_serve_nothing(
    tmp_path: Path, free_port: int, visible: str
) -> None:
    host = with_gpu(tmp_path)
    host.extra["CUDA_VISIBLE_DEVICES"] = visible
    status, report = looked_at(host, free_port, "--engine", "exllamav2")
    assert status == 1
    check = checks(report)["GPU"]
    assert check["state"] == "lacks"
    assert check["detail"] == (
        f"CUDA_VISIBLE_DEVICES={visible} leaves none of these GPUs"
    )
    host.extra["CUDA_VISIBLE_DEVICES"] = "0"
    _, report = looked_at(host, free_port, "--engine", "exllamav2")
    assert checks(report)["GPU"]["state"] == "ok"


def test_only_a_host_without_a_driver_is_told_to_install_one(
    tmp_path: Path, free_port: int
) -> None:
    host = FakeHost(tmp_path)
    _, report = looked_at(host, free_port)
    assert checks(report)["driver"]["mend"].startswith("install the NVIDIA driver")
    host.write("site/pynvml.py", OTHER_DRIVER)
    _, report = looked_at(host, free_port)
    driver = checks(report)["driver"]
    assert driver["detail"].endswith("Driver/library version mismatch")
    assert driver["mend"] is None


def test_the_table_has_what_to_do_below_what_is_missing(tmp_path: Path) -> None:
    done = with_gpu(tmp_path).run("doctor")
    lines = done.stdout.splitlines()
    assert "exllamav2: cannot serve" in lines
    assert "reference: can serve" in lines
    (at,) = (i for i, line in enumerate(lines) if "is not built for" in line)
    assert lines[at].startswith("  lacks  extension ")
    assert lines[at + 1].strip() == "-> run `neuron build-ext`"


def test_deep_says_why_the_backend_cannot_be_imported(
    tmp_path: Path, free_port: int
) -> None:
    host = with_gpu(tmp_path)
    assert host.run("build-ext").returncode == 0
    status, report = looked_at(host, free_port, "--engine", "exllamav2", "--deep")
    assert status == 1
    assert "does not fit this Python and torch" in checks(report)["imports"]["detail"]


def test_a_configuration_that_cannot_be_used_serves_nothing(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.write("config/cortex/neuron.toml", "lisen = 5\n")
    done = host.run("doctor")
    assert done.returncode == 1
    assert "neuron.toml" in done.stdout
    assert "lisen" in done.stdout


class _Neuron(BaseHTTPRequestHandler):
    answer = b'{"version": "0.1.0"}'

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_request(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which something answers as a neuron does."""
    with HTTPServer(("127.0.0.1", 0), _Neuron) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_neuron_may_have_the_port(listening: int) -> None:
    check = check_port(Address("127.0.0.1", listening))
    assert check == Check("port", "ok", f"a neuron, 0.1.0, serves on {listening}")


@pytest.mark.parametrize("answer", [b"[]", b"<html>", b'{"version": null}'])
def test_nothing_else_may(
    listening: int, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Neuron, "answer", answer)
    check = check_port(Address("127.0.0.1", listening))
    assert (check.state, check.name) == ("lacks", "port")
    assert "address already in use" in check.detail
    assert check.mend is not None


def test_an_address_of_another_host_cannot_be_listened_on() -> None:
    check = check_port(Address("192.0.2.1", 0))
    assert check.state == "lacks"
    assert "cannot assign requested address" in check.detail


def test_models_folders_are_looked_into(tmp_path: Path) -> None:
    missing = check_models_folder(tmp_path / "none")
    assert missing.mend == f"mkdir -p {tmp_path / 'none'}"
    (tmp_path / "file").touch()
    assert "cannot be read" in check_models_folder(tmp_path / "file").detail
    assert "free" in check_models_folder(tmp_path).detail


def test_a_container_s_limit_is_read_in_both_versions(tmp_path: Path) -> None:
    assert container_limit(tmp_path) is None
    (tmp_path / "memory").mkdir()
    old = tmp_path / "memory/memory.limit_in_bytes"
    old.write_text("9223372036854771712\n")
    assert container_limit(tmp_path) is None
    old.write_text("2147483648\n")
    assert container_limit(tmp_path) == 2 * 1024**3
    (tmp_path / "memory.max").write_text("max\n")
    old.unlink()
    assert container_limit(tmp_path) is None


def test_what_the_host_lacks_no_engine_makes_up_for() -> None:
    engine = EngineReport("reference", (Check("probe", "ok", "serves"),))
    note = Check("models", "note", "does not exist")
    assert Report((note,), (engine,)).serves()
    assert not Report((note,), (engine,)).serves("exllamav2")
    assert not Report((Check("port", "lacks", "taken"),), (engine,)).serves()
