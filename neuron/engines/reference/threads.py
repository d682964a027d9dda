"""A few threads that share the panels of one large product.

NumPy releases the interpreter lock inside a product. The BLAS' own threads are not
used: they spin while they wait, which starves everything else on a small host.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

SHARE: Final = 1_500_000
"""Multiplications below which handing a share over costs more than it saves."""


class Threads:
    """The calling thread and `count - 1` more; `close` ends them."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count - 1, "reference-blas")

    def split(self, panels: int, work: int) -> list[slice]:
        """Panels for each thread to do; one slice where sharing does not pay."""
        shares = min(self.count, panels, max(1, work // SHARE))
        bounds = [panels * share // shares for share in range(shares + 1)]
        return [slice(a, b) for a, b in pairwise(bounds)]

    def run(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> None:
        """Call it with each tuple of arguments; returns when all are done."""
        pool = self._pool
        if pool is None:
            for each in arguments:
                function(*each)
            return
        futures = [pool.submit(function, *each) for each in arguments[1:]]
        function(*arguments[0])
        for future in futures:
            future.result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
