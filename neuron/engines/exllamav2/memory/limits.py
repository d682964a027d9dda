"""How much the model is asked to do in one forward pass.

The library allocates for these when it loads and asserts them when it runs; the plan,
the loader and the generator have to agree on them.
"""

from dataclasses import dataclass
from typing import Final

from neuron.engines.exllamav2.memory.cache_modes import whole_pages

MAX_INPUT: Final = 2048
"""Prompt tokens per forward pass: dequantized weights pay off from about there."""
MAX_OUTPUT: Final = 16
"""Positions that one pass may return all logits of, at the least."""
MAX_DRAFT_TOKENS: Final = 15
"""Attention takes up to 16 queries per sequence in a decode step."""
DEFAULT_DRAFT_TOKENS: Final = 4
FUSED_ROWS: Final = 32
"""Up to so many rows are multiplied with packed weights; beyond, the weights are
dequantized first (MAX_Q_GEMM_ROWS)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of forward passes."""

    max_input: int
    """`max_input_len`; a whole number of pages, and room for a decode step."""
    max_output: int
    """`max_output_len`."""
    query_length: int
    """Tokens that one sequence evaluates per decode step: `max_q_size`."""
    slots: int

    @property
    def decode_rows(self) -> int:
        """Rows of a decode step when every slot is taken."""
        return self.slots * self.query_length


def limits_of(max_seq_len: int, slots: int, draft_tokens: int = 0) -> Limits:
    """What a load with these settings evaluates at once, at most."""
    query_length = 1 + draft_tokens
    prompt = min(MAX_INPUT, whole_pages(max_seq_len))
    return Limits(
        max_input=max(prompt, whole_pages(slots * query_length)),
        max_output=max(MAX_OUTPUT, slots * query_length),
        query_length=query_length,
        slots=slots,
    )
