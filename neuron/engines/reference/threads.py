"""A few threads that share the panels of one large product.

NumPy releases the interpreter lock inside a product. The BLAS' own threads are not
used: they spin while they wait, which starves everything else on a small host.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any, Final

import numpy as np

SHARE: Final = 4_000_000
"""Multiplications that are worth handing over to another thread."""


def quiet() -> np.errstate:
    """No warnings of what is meant to happen (an infinite exponential is silu's way
    to zero) or is looked at later (whether the result is finite)."""
    return np.errstate(over="ignore", invalid="ignore")


def _be_quiet() -> None:
    np.seterr(over="ignore", invalid="ignore")


def available_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0))


class Threads:
    """The calling thread and `count - 1` helpers; `close` ends them."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or available_cores()
        self._helpers: ThreadPoolExecutor | None = None
        if self.count > 1:
            self._helpers = ThreadPoolExecutor(
                self.count - 1, "reference-blas", initializer=_be_quiet
            )

    def shares(self, work: int) -> int:
        """Into how many parts to cut so many multiplications."""
        return max(1, min(self.count, work // SHARE))

    def run(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> None:
        """Call it with each tuple of arguments; returns when all are done.

        A busy host may not let a helper run for a while: what no helper has begun, the
        calling thread does itself.
        """
        helpers = self._helpers
        futures = (
            []
            if helpers is None
            else [helpers.submit(function, *each) for each in arguments[1:]]
        )
        function(*arguments[0])
        for future, each in zip_longest(futures, arguments[1:]):
            if future is None or future.cancel():
                function(*each)
            else:
                future.result()

    def close(self) -> None:
        if self._helpers is not None:
            self._helpers.shutdown()
