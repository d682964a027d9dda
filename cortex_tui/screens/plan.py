"""How the Fleet screen shares its lines among the panels: a pure function of size."""

from dataclasses import dataclass

MIN_WIDTH, MIN_HEIGHT = 60, 16
WIDE = 110
CHARTS_FROM_HEIGHT = 30
CHART_LINES = 7
SMALL_BELOW = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Lines of each part; 0 is hidden. Models get what is left."""

    charts: int
    pulse: int
    nodes: int
    models: int
    bottom: int
    both_bottom: bool
    """Requests and events side by side, rather than one at a time."""
    swap_main: bool
    """Nodes and models share one place; the focused one is shown."""


def plan(width: int, height: int, nodes: int, models: int) -> Plan:
    """The screen at `width`×`height` with so many rows of nodes and models.

    Status and key line take one line each. Depends on the number of rows only slowly
    changing things have, so that nothing jumps while requests come and go.
    """
    wide = width >= WIDE
    charts = CHART_LINES if wide and height >= CHARTS_FROM_HEIGHT else 0
    pulse = 0 if charts else 1
    left = height - 2 - charts - pulse
    if height < SMALL_BELOW:
        bottom = 3
        main = left - bottom
        return Plan(charts, pulse, main, main, bottom, wide, swap_main=True)
    node_lines = 2 + min(max(1, nodes), max(1, left // 4))
    least_bottom = max(5, left // 4)
    model_lines = min(max(6, 3 + models), left - node_lines - least_bottom)
    bottom = left - node_lines - model_lines
    return Plan(charts, pulse, node_lines, model_lines, bottom, wide, swap_main=False)
