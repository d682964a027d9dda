"""The random numbers that a request's tokens are chosen by."""

import secrets

import numpy as np

_BLOCK = 64


class Uniforms:
    """One number per position of the output, whenever and however often it is asked.

    So neither preemption nor drafts that are thrown away change what is chosen. The
    stream is that of the reference engine: Philox keyed by the seed.
    """

    def __init__(self, seed: int | None) -> None:
        """None is a seed that nobody knows."""
        key = secrets.randbits(64) if seed is None else seed % (1 << 64)
        self._random = np.random.Generator(np.random.Philox(key=key))
        self._drawn: list[float] = []

    def at(self, position: int) -> float:
        """In [0, 1), for the token at that position of the output."""
        while len(self._drawn) <= position:
            self._drawn += self._random.random(_BLOCK).tolist()
        return self._drawn[position]
