"""A host made up of files: packages that may not be imported, a toolkit's headers, and
an nvcc that knows its version.

Its torch has one function, the helper that builds extensions, which runs ninja as the
real one does; the sources that it "compiles" are shell scripts.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[3]
HEADERS = (
    "cuda_runtime.h", "cuda_fp16.h", "crt/host_config.h", "nv/target",
    "cublas_v2.h", "cusparse.h", "cusolverDn.h", "curand_kernel.h",
)  # fmt: skip
NVCC = """#!/bin/sh
case "$*" in
  *-dryrun*) echo '#$ _HERE_={root}/bin' >&2 ;;
  *--version*) echo 'Cuda compilation tools, release {short}, V{version}' ;;
  *--list-gpu-arch*) printf 'compute_75\\ncompute_80\\ncompute_90\\ncompute_120\\n' ;;
esac
"""
CPP_EXTENSION = '''
import os, subprocess, sys
from pathlib import Path

def load(name, sources, build_directory, verbose, **flags):
    """As torch's own: one edge for each source and one to link, by a verbose ninja."""
    work = Path(build_directory)
    objects = [Path(source).name + ".o" for source in sources]
    lines = ["rule run", "  command = sh $in && cp $in $out",
             "rule link", "  command = cat $in > $out"]
    for source, out in zip(sources, objects):
        lines.append(f"build {out}: run {source}")
    lines += [f"build {name}.so: link {' '.join(objects)}", ""]
    (work / "build.ninja").write_text("\\n".join(lines))
    print(os.environ["TORCH_CUDA_ARCH_LIST"], os.environ["CUDA_HOME"], flags)
    sys.stdout.flush()
    command = ["ninja", "-v", "-j", os.environ["MAX_JOBS"]]
    subprocess.run(command, cwd=work, check=True)
'''
NO_GPU = """
class NVMLError(Exception):
    value = 12
def nvmlInit():
    raise NVMLError
"""
GPU = """
class NVMLError(Exception):
    value = 12
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return "GPU-2f1c"
def nvmlDeviceGetName(handle): return "NVIDIA H100 80GB HBM3"
def nvmlDeviceGetCudaComputeCapability(handle): return (9, 0)
def nvmlSystemGetDriverVersion(): return "580.95.05"
def nvmlSystemGetCudaDriverVersion_v2(): return {driver}
"""
HIDDEN = re.compile(
    r"(torch|triton|exllamav2|flash_attn|safetensors|pillow|PIL|nvidia)(?!_ml)"
    r"([-_.]|$)"
)
"""What may be installed here and is on a made-up host only where a test says so."""
SITE_CUSTOMIZE = """
import sys, sysconfig
real = sysconfig.get_path("purelib")
sys.path[:] = [{others!r} if path == real else path for path in sys.path]
"""


@dataclass(frozen=True)
class FakeHost:
    """Without what this engine needs, and without a GPU, until it is put there."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        others = self.root / "others"
        others.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if not HIDDEN.match(entry.name):
                (others / entry.name).symlink_to(entry)
        self.write("site/sitecustomize.py", SITE_CUSTOMIZE.format(others=str(others)))
        self.write("site/pynvml.py", NO_GPU)

    @property
    def site(self) -> Path:
        """Where packages are, before those of this Python."""
        return self.root / "site"

    @property
    def extensions(self) -> Path:
        return self.root / "extensions"

    @property
    def kept(self) -> Path:
        """Where builds for exllamav2 0.3.2 are."""
        return self.extensions / "exllamav2-0.3.2"

    @property
    def environ(self) -> dict[str, str]:
        folders = {
            f"XDG_{name}_HOME": str(self.root / name.lower())
            for name in ("CONFIG", "DATA", "STATE", "CACHE")
        }
        return {
            **os.environ,
            **folders,
            "HOME": str(self.root),
            "PYTHONPATH": os.pathsep.join([str(self.site), str(REPOSITORY)]),
            "CUDA_HOME": str(self.root / "cuda"),
            "NEURON_EXLLAMAV2_EXTENSIONS": str(self.extensions),
            "CUDA_VISIBLE_DEVICES": "0,1",
            "COLUMNS": "200",
            # Bytecode of a module that is written anew within a second is stale.
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.extra,
        }

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def distribution(self, name: str, version: str) -> None:
        self.write(
            f"site/{name}-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        )

    def torch(self, version: str = "2.11.0", cuda: str | None = "13.0") -> None:
        self.distribution("torch", version)
        self.write("site/torch/__init__.py")
        self.write("site/torch/utils/__init__.py")
        self.write("site/torch/utils/cpp_extension.py", CPP_EXTENSION)
        self.write(
            "site/torch/version.py",
            "from typing import Optional\n\n"
            f"__version__ = '{version}+{'cpu' if cuda is None else 'cu'}'\n"
            f"debug = False\ncuda: Optional[str] = {cuda!r}\n"
            "hip: Optional[str] = None\n",
        )

    def exllamav2(
        self, sources: Sequence[str] = (":",), version: str = "0.3.2"
    ) -> None:
        """With one file for each of `sources`, which are shell scripts."""
        self.distribution("exllamav2", version)
        self.write("site/exllamav2/__init__.py", "raise AssertionError('imported')")
        names = [f"part{i}.cpp" for i in range(len(sources))]
        self.write(
            "site/exllamav2/ext.py", f"if True:\n    sources_ = \\\n    {names}\n"
        )
        for name, script in zip(names, sources, strict=True):
            self.write(f"site/exllamav2/exllamav2_ext/{name}", script + "\n")

    def attention(self) -> None:
        self.distribution("triton", "3.6.0")
        self.write("site/triton/__init__.py", "raise AssertionError('imported')")

    def gpu(self, driver: int = 13000) -> None:
        self.write("site/pynvml.py", GPU.format(driver=driver))

    def toolkit(
        self,
        version: str = "13.0.88",
        headers: Sequence[str] = HEADERS,
        folder: str = "cuda",
    ) -> Path:
        root = self.root / folder
        text = NVCC.format(root=root, version=version, short=version.rpartition(".")[0])
        self.write(f"{folder}/bin/nvcc", text).chmod(0o755)
        for header in headers:
            self.write(f"{folder}/include/{header}")
        self.write(f"{folder}/lib64/libcudart.so")
        return root

    def start(
        self, *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        """`neuron ARGUMENTS` on this host."""
        return self._python("-m", "neuron", *arguments, stdout=stdout)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`neuron ARGUMENTS` to its end."""
        return _ended(self.start(*arguments))

    def evaluate(self, code: str) -> str:
        """What a Python script prints on this host."""
        done = _ended(self._python("-c", code))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def _python(
        self, *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environ,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )


def _ended(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def complete_host(root: Path, sources: Sequence[str] = (":",)) -> FakeHost:
    """A host with everything but a build of the extension and a GPU."""
    host = FakeHost(root)
    host.torch()
    host.exllamav2(sources)
    host.attention()
    host.toolkit()
    return host
