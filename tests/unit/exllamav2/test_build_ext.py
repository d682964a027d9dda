"""`neuron build-ext`, as it is typed, on a host made up of files."""

import json
import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.unit.exllamav2.fake_host import FakeHost, complete_host

KEY = f"py3{sys.version_info.minor}-torch2.11.0-cu130-sm90"
HANG = "sleep 300 & echo $! >> {pids}; wait"


def wait_for(path: Path, lines: int) -> list[int]:
    """The process ids in the file, once there are that many."""
    deadline = time.monotonic() + 20
    while not path.exists() or path.read_text().count("\n") < lines:
        assert time.monotonic() < deadline, "the compilers never started"
        time.sleep(0.02)
    return [int(line) for line in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def all_end(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def leftovers(host: FakeHost) -> list[Path]:
    return [*host.kept.glob(".building-*"), *host.kept.glob("py*-sm*[0-9]/")]


def test_a_build_counts_its_sources_and_says_what_it_is(tmp_path: Path) -> None:
    host = complete_host(tmp_path, ["echo compiling"] * 3)
    done = host.run("build-ext", "--arch", "9.0", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    counted = [line for line in done.stdout.splitlines() if line.endswith(" sources")]
    assert counted == [f"{n} of 3 sources" for n in range(4)]

    manifest = json.loads((host.kept / KEY / "manifest.json").read_text())
    assert manifest["key"] == KEY
    assert manifest["architectures"] == ["9.0"]
    assert (manifest["torch"], manifest["cuda"]) == ("2.11.0", "cu130")
    assert (manifest["nvcc"], manifest["jobs"]) == ("13.0.88", 2)
    assert manifest["seconds"] > 0
    built = host.kept / KEY / manifest["file"]
    assert built.read_text() == "echo compiling\n" * 3
    assert f"{built}: 0.0 MB in " in done.stdout
    assert list(host.kept.glob(".building-*")) == []


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    host = complete_host(tmp_path, [":"] * 3)
    ours, theirs = pty.openpty()
    with open(ours, "rb") as screen:
        with open(theirs, "wb") as terminal:
            process = host.start("build-ext", "--arch", "9.0", stdout=terminal)
        shown = b""
        while b" MB in " not in shown:
            shown += os.read(screen.fileno(), 4096)
        assert process.wait(20) == 0
    process.communicate()
    assert b"Compiling" in shown
    assert b"3/3" in shown
    assert b" of 3 sources" not in shown


def test_architectures_are_those_of_the_gpus(tmp_path: Path) -> None:
    host = complete_host(tmp_path)
    host.gpu()
    assert host.run("build-ext").returncode == 0
    assert (host.kept / KEY).is_dir()


def test_torch_s_helper_gets_architectures_toolkit_and_flags(tmp_path: Path) -> None:
    host = complete_host(tmp_path)
    (tmp_path / "cuda/include/cusparse.h").unlink()
    wheel = host.write("site/nvidia/cu13/include/cusparse.h").parent
    assert host.run("build-ext", "--arch", "9.0,8.0").returncode == 0
    (log,) = host.kept.glob("*.log")
    first = log.read_text().partition("\n")[0]
    assert first.startswith(f"8.0;9.0 {host.root / 'cuda'} ")
    assert "'extra_cflags': ['-Ofast', " in first
    assert "'extra_cuda_cflags': ['-lineinfo', '-O3', " in first
    assert first.count(f"-isystem {wheel}") == 2


def test_what_is_built_is_not_built_again_unless_forced(tmp_path: Path) -> None:
    host = complete_host(tmp_path, ["echo >> $HOME/count"])
    assert host.run("build-ext", "--arch", "9.0").returncode == 0
    again = host.run("build-ext", "--arch", "9.0")
    assert "is built already" in again.stdout
    assert (tmp_path / "count").read_text() == "\n"
    assert host.run("build-ext", "--arch", "9.0", "--force").returncode == 0
    assert (tmp_path / "count").read_text() == "\n\n"


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, {"PATH": "/nowhere", "CXX": "/nowhere/c++"})
    host.torch()
    host.exllamav2()
    host.toolkit(headers=("cuda_runtime.h", "cuda_fp16.h", "crt/host_config.h"))
    done = host.run("build-ext")
    assert done.returncode == 1
    for what in ("a GPU to build for", "a C++ compiler", "nv/target", "cusparse.h"):
        assert f"\n  {what}" in done.stderr
    assert "\n    apt install g++" in done.stderr
    assert "\n    pip install 'cuda-toolkit[cusparse]==13.0.*'" in done.stderr
    assert not host.extensions.exists()


def test_a_toolkit_of_another_generation_is_named(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.torch(cuda="14.1")
    host.exllamav2()
    host.toolkit("12.4.131")
    done = host.run("build-ext", "--arch", "9.0")
    assert done.returncode == 1
    assert f"12.4.131 in {tmp_path / 'cuda'}" in done.stderr
    assert "nvcc for CUDA 14.1" in done.stderr
    assert "'cuda-toolkit[nvcc,nvvm,crt,cccl]==14.1.*'" in done.stderr


@pytest.mark.parametrize(
    ("cuda", "said"), [(None, "a torch for CUDA (found 2.11.0+cpu)"), ("no", "  torch")]
)
def test_a_torch_without_cuda_builds_nothing(
    tmp_path: Path, cuda: str | None, said: str
) -> None:
    host = complete_host(tmp_path)
    if cuda is None:
        host.torch(cuda=None)
    else:
        (host.site / "torch/version.py").unlink()
    done = host.run("build-ext", "--arch", "9.0")
    assert done.returncode == 1
    assert said in done.stderr


def test_an_architecture_that_nvcc_lacks_is_refused(tmp_path: Path) -> None:
    done = complete_host(tmp_path).run("build-ext", "--arch", "6.1")
    assert done.returncode == 1
    assert "capability 6.1 (13.0.88 has 7.5, 8.0, 9.0, 12.0)" in done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [("--arch", "sm_90"), ("--arch", "9.0,"), ("--jobs", "0"), ("--jobs", "many")],
)
def test_a_bad_value_is_wrong_usage(tmp_path: Path, option: str, value: str) -> None:
    done = FakeHost(tmp_path).run("build-ext", option, value)
    assert done.returncode == 2
    assert f"not {value}" in done.stderr


def test_a_compiler_s_error_is_shown_and_nothing_kept(tmp_path: Path) -> None:
    host = complete_host(
        tmp_path, [":", "echo 'x.cpp:7: error: no such type' >&2; exit 1"]
    )
    done = host.run("build-ext", "--arch", "9.0")
    assert done.returncode == 1
    assert "x.cpp:7: error: no such type" in done.stderr
    (log,) = host.kept.glob("*.log")
    assert str(log) in done.stderr
    assert leftovers(host) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_every_compiler(
    tmp_path: Path, number: signal.Signals
) -> None:
    pids = tmp_path / "pids"
    host = complete_host(tmp_path, [HANG.format(pids=pids)] * 2)
    process = host.start("build-ext", "--arch", "9.0", "--jobs", "2")
    running = wait_for(pids, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "neuron build-ext: interrupted; nothing was kept\n"
    assert not any(map(alive, running))
    assert leftovers(host) == []


def test_a_killed_build_takes_its_compilers_along_and_hinders_none(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    host = complete_host(tmp_path, [HANG.format(pids=pids)])
    process = host.start("build-ext", "--arch", "9.0")
    running = wait_for(pids, 1)
    process.kill()
    process.communicate()
    assert all_end(running)
    assert len(list(host.kept.glob(".building-*"))) == 1

    host.exllamav2([":"])
    assert host.run("build-ext", "--arch", "9.0").returncode == 0
    assert list(host.kept.glob(".building-*")) == []


def test_a_second_builder_says_so_and_waits_or_leaves(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    host = complete_host(
        tmp_path, [f"echo >> $HOME/started; until [ -e {gate} ]; do sleep 0.05; done"]
    )
    first = host.start("build-ext", "--arch", "9.0")
    wait_for(tmp_path / "started", 1)

    left = host.run("build-ext", "--arch", "9.0", "--no-wait")
    assert left.returncode == 1
    assert f"process {first.pid} builds {KEY}" in left.stderr

    second = host.start("build-ext", "--arch", "9.0")
    assert second.stdout is not None
    assert second.stdout.readline() == (
        f"process {first.pid} builds {KEY}: waiting for it\n"
    )
    gate.touch()
    assert first.wait(20) == 0
    out, err = second.communicate(timeout=20)
    assert (second.returncode, err) == (0, "")
    assert "is built already" in out
    assert (tmp_path / "started").read_text() == "\n"
    first.communicate()


def test_another_exllamav2_is_not_built(tmp_path: Path) -> None:
    host = complete_host(tmp_path)
    metadata = tmp_path / "site/exllamav2-0.3.2.dist-info/METADATA"
    metadata.write_text(metadata.read_text().replace("0.3.2", "0.3.1"))
    done = host.run("build-ext", "--arch", "9.0")
    assert done.returncode == 1
    assert "exllamav2 0.3.2 (found 0.3.1)" in done.stderr


def test_an_exllamav2_without_its_sources_is_named(tmp_path: Path) -> None:
    host = complete_host(tmp_path)
    (host.site / "exllamav2/exllamav2_ext/part0.cpp").unlink()
    done = host.run("build-ext", "--arch", "9.0")
    assert done.returncode == 1
    assert "part0.cpp is missing: reinstall exllamav2" in done.stderr
    host.write("site/exllamav2/ext.py", "sources = []")
    assert "has no list of sources" in host.run("build-ext", "--arch", "9.0").stderr
