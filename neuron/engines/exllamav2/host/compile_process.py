"""The process that compiles an extension with torch's own build helper, in a session of
its own; `build` starts it and reads what ninja prints.

Run as `python -m neuron.engines.exllamav2.host.compile_process JSON`.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Final

from neuron.engines.exllamav2.host.process_session import end_session

_PR_SET_PDEATHSIG: Final = 1
"""Source: prctl(2)."""


@dataclass(frozen=True, slots=True)
class Job:
    """Arguments of torch.utils.cpp_extension.load, and who waits for the result."""

    parent: int
    name: str
    sources: tuple[str, ...]
    build_directory: str
    extra_include_paths: tuple[str, ...]
    extra_cflags: tuple[str, ...]
    extra_cuda_cflags: tuple[str, ...]
    extra_ldflags: tuple[str, ...]

    def command(self) -> list[str]:
        """Starts the process for this job."""
        return [sys.executable, "-P", "-m", __name__, json.dumps(asdict(self))]


def main(text: str) -> None:
    """Compile and link, and import the result as a proof."""
    job = json.loads(text)
    _end_with(job.pop("parent"))
    import torch.utils.cpp_extension

    torch.utils.cpp_extension.load(**job, verbose=True)


def _end_with(parent: int) -> None:
    """Take ninja and its compilers along when the builder dies, or ends us."""

    def end(_number: int, _frame: object) -> None:
        end_session(os.getsid(0))
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
