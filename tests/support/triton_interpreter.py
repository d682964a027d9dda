"""A process in which Triton's kernels are interpreted instead of compiled.

Triton decides between the two once, when it is imported; so tests that want the one
and tests that want the other cannot share a process.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from typing import Any


class Interpreter:
    """Runs functions of one module in that process."""

    def __init__(self, pool: ProcessPoolExecutor, checks: str) -> None:
        self._pool = pool
        self._checks = checks

    def run(self, check: str, *arguments: object) -> Any:
        """What the check returns; raises what it raises."""
        return self._pool.submit(_run, self._checks, check, *arguments).result()


@contextmanager
def interpreter(checks: str) -> Iterator[Interpreter]:
    """`checks` names the module whose functions it runs."""
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_interpret)
    with pool:
        yield Interpreter(pool, checks)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import_module("torch").set_num_threads(1)
    triton = import_module("triton")
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
        _take_arrays_of_one_for_numbers()


def _take_arrays_of_one_for_numbers() -> None:
    """As newer interpreters do, and as NumPy did before 2.4."""
    module: Any = import_module("triton.runtime.interpreter")
    original = module._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    module._patch_lang_tensor = patch


def _run(checks: str, check: str, *arguments: object) -> Any:
    return getattr(import_module(checks), check)(*arguments)
