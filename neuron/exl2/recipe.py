"""Which group of which layer gets how many bits, so that the mean is as asked.

A layer mixes the two widths around its budget: its first groups get the wider one.
What the whole groups of one layer leave over of the budget, or overspend, goes to the
next, so the mean over all layers ends within half a group's step of the target.
Counted is all that a layer takes on disk, scales and permutation included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from neuron.exl2.bitstream import WIDTHS
from neuron.exl2.exl2_linear import COLUMN_MULTIPLE
from neuron.exl2.quantize import group_sizes

GroupPlan = tuple[tuple[int, int], ...]
"""(bits, rows) of each group."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A linear layer before it is quantized."""

    in_features: int
    out_features: int

    @property
    def columns(self) -> int:
        return self.out_features + -self.out_features % COLUMN_MULTIPLE

    @property
    def weights(self) -> int:
        return self.in_features * self.out_features


def stored_bits(shape: LayerShape, plan: GroupPlan) -> int:
    """What the layer takes on disk but its bias: levels, scales, groups, order."""
    levels = sum(bits * rows for bits, rows in plan) * shape.columns
    per_group = 4 * shape.columns + 16 + 32
    return levels + per_group * len(plan) + 32 * shape.in_features


def uniform(shape: LayerShape, bits: int, group_rows: int) -> GroupPlan:
    """Every group at the same width."""
    return tuple((bits, rows) for rows in group_sizes(shape.in_features, group_rows))


def mixed(
    shapes: Sequence[LayerShape], bits: float, group_rows: int
) -> list[GroupPlan]:
    """A plan for each layer so that all together take `bits` per weight.

    Raises:
        ValueError: no mix of widths reaches `bits`; the message says what can.
    """
    weights = sum(shape.weights for shape in shapes)
    lowest, highest = (
        sum(stored_bits(s, uniform(s, width, group_rows)) for s in shapes) / weights
        for width in (min(WIDTHS), max(WIDTHS))
    )
    if not lowest <= bits:
        raise ValueError(
            f"{bits} bits per weight cannot be reached: with scales and permutation "
            f"these layers take {lowest:.3f} to {highest:.3f}"
        )
    plans: list[GroupPlan] = []
    left = 0.0
    for shape in shapes:
        budget = bits * shape.weights + left
        plan = _within(shape, budget, group_rows)
        left = budget - stored_bits(shape, plan)
        plans.append(plan)
    return plans


def _within(shape: LayerShape, budget: float, group_rows: int) -> GroupPlan:
    """The mix of two neighbouring widths whose size comes nearest to the budget."""
    sizes = group_sizes(shape.in_features, group_rows)
    for low, high in pairwise(sorted(WIDTHS)):
        missing = budget - stored_bits(shape, uniform(shape, low, group_rows))
        step = (high - low) * sizes[0] * shape.columns
        wide = max(0, round(missing / step))
        if wide < len(sizes):
            return tuple(
                (high if index < wide else low, rows)
                for index, rows in enumerate(sizes)
            )
    return uniform(shape, max(WIDTHS), group_rows)
