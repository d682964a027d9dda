"""Which toolkit, headers and libraries a build takes."""

import os
import subprocess
from pathlib import Path

import pytest

from neuron.engines.exllamav2.host.build import JOB_BYTES, default_jobs
from neuron.engines.exllamav2.host.process_session import end_session, members
from tests.unit.exllamav2.fake_host import HEADERS, FakeHost

FIND = """
from neuron.engines.exllamav2.host.installed import torch_build
from neuron.engines.exllamav2.host.toolchain import find_toolchain
found = find_toolchain(torch_build())
toolkit = found.toolkit
print(toolkit and toolkit.root, toolkit and toolkit.version_text)
print(*found.includes)
print(found.cudart)
print(*[each.what for each in found.missing], sep=", ")
"""


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """With a torch for CUDA 14.1, which no real toolkit here can be taken for."""
    host = FakeHost(tmp_path)
    host.torch(cuda="14.1")
    return host


def found(host: FakeHost) -> list[str]:
    """The toolkit with its version, folders of headers, libcudart, what is missing."""
    return host.evaluate(FIND).splitlines()


def test_a_wrapper_leads_to_its_toolkit(host: FakeHost) -> None:
    real = host.toolkit("14.1.2", folder="real")
    wrapper = host.write("cuda/bin/nvcc", f'#!/bin/sh\nexec {real}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    assert found(host) == [f"{real} 14.1.2", "", "None", ""]


def test_the_one_on_the_path_is_taken_where_the_named_one_is_too_old(
    host: FakeHost,
) -> None:
    host.toolkit("13.0.88")
    newer = host.toolkit("14.0.1", folder="newer")
    host.extra["PATH"] = f"{newer}/bin:{os.environ['PATH']}"
    assert found(host)[0] == f"{newer} 14.0.1"


def test_one_that_does_not_answer_is_none(host: FakeHost) -> None:
    host.write("cuda/bin/nvcc", "#!/bin/sh\nexit 1\n").chmod(0o755)
    toolkit, *_, missing = found(host)
    assert toolkit == "None None"
    assert missing.startswith("nvcc for CUDA 14.1")


def test_nvidia_s_wheels_are_a_toolkit(host: FakeHost) -> None:
    """With a runtime library that has no name to link it by."""
    root = host.toolkit("14.1.2", folder="site/nvidia/cu14")
    (root / "lib64/libcudart.so").unlink()
    library = host.write("site/nvidia/cu14/lib/libcudart.so.14")
    assert found(host) == [f"{root} 14.1.2", "", str(library), ""]


def test_headers_that_a_toolkit_lacks_come_from_wheels(host: FakeHost) -> None:
    """Which older releases have a folder each."""
    mathematics = ("cublas_v2.h", "cusparse.h", "cusolverDn.h", "nv/target")
    host.toolkit("14.1.2", headers=[h for h in HEADERS if h not in mathematics])
    for folder, header in zip(
        ("cublas/include", "cusparse/include", "cuda_cccl/include/cccl"),
        ("cublas_v2.h", "cusparse.h", "nv/target"),
        strict=True,
    ):
        host.write(f"site/nvidia/{folder}/{header}")
    _, includes, _, missing = found(host)
    assert includes.split() == [
        str(host.site / "nvidia" / folder)
        for folder in ("cuda_cccl/include/cccl", "cublas/include", "cusparse/include")
    ]
    assert missing == "cusolverDn.h"


def test_a_toolkit_may_keep_its_files_by_target(host: FakeHost) -> None:
    """As Conda's does."""
    root = host.toolkit("14.1.2", headers=[])
    (root / "lib64").rename(root / "unused")
    for header in HEADERS:
        host.write(f"cuda/targets/x86_64-linux/include/{header}")
    library = host.write("cuda/targets/x86_64-linux/lib/libcudart.so.14")
    include = root / "targets/x86_64-linux/include"
    assert found(host) == [f"{root} 14.1.2", str(include), str(library), ""]


def test_a_runtime_library_is_asked_for(host: FakeHost) -> None:
    root = host.toolkit("14.1.2")
    (root / "lib64/libcudart.so").unlink()
    assert found(host)[-1] == "libcudart.so"


def test_compilers_are_as_many_as_cpus_and_memory_allow() -> None:
    cpus = len(os.sched_getaffinity(0))
    assert default_jobs(None) == cpus
    assert default_jobs(1000 * JOB_BYTES) == cpus
    assert default_jobs(JOB_BYTES - 1) == 1


def test_what_ignores_sigterm_is_killed() -> None:
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo; sleep 300 & sleep 300 & wait; wait"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert set(members(stubborn.pid)) >= {stubborn.pid}
        end_session(stubborn.pid, grace_s=0.2)
        assert set(members(stubborn.pid)) == set()
