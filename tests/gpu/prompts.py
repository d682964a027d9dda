"""Prompts for models whose weights are random."""

import numpy as np

from tests.gpu.models import TINY


def prompt_of(tokens: int, seed: int = 0) -> list[int]:
    """Random tokens; equal arguments give equal prompts."""
    rng = np.random.default_rng((seed, tokens))
    drawn: list[int] = rng.integers(3, TINY.vocab, tokens).tolist()
    return drawn
