"""Numbers, sizes, ages and names as short text, measured in terminal cells.

An unknown value is `–`, zero is `0`: the two are never confused. Text from outside
(model names, errors, events) passes through `clean`, so that no control character
reaches the terminal.
"""

import time
import unicodedata
from dataclasses import dataclass
from typing import Literal

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Every character beyond ASCII that the console draws."""

    ready: str
    idle: str
    partial: str
    failed: str
    away: str
    pin: str
    alert: str
    unknown: str
    select: str
    rule: str
    dot: str
    ellipsis: str
    bar: str
    """Fillings of one cell of a bar, from the thinnest to the full one."""
    bar_empty: str
    spark: str
    """Heights of one cell of a chart, from empty to full."""
    axis: str
    axis_zero: str
    enter: str


UNICODE = Glyphs(
    ready="●",
    idle="○",
    partial="◐",
    failed="✖",
    away="◌",
    pin="⚑",
    alert="▲",
    unknown="–",
    select="▌",
    rule="─",
    dot="·",
    ellipsis="…",
    bar="▏▎▍▌▋▊▉█",
    bar_empty="·",
    spark=" ▁▂▃▄▅▆▇█",
    axis="┤",
    axis_zero="┼",
    enter="⏎",
)

ASCII = Glyphs(
    ready="*",
    idle="o",
    partial="~",
    failed="!",
    away="-",
    pin="^",
    alert="!",
    unknown="-",
    select=">",
    rule="-",
    dot="-",
    ellipsis="~",
    bar="#",
    bar_empty=".",
    spark=" .:|#",
    axis="|",
    axis_zero="+",
    enter="enter",
)


def glyphs(ascii_only: bool) -> Glyphs:
    """The table to draw with."""
    return ASCII if ascii_only else UNICODE


def clean(text: str) -> str:
    """`text` on one line, with what would move the cursor replaced by `·`."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{MIDDLE DOT}" for c in text
    )


def cells(text: str) -> int:
    """Width of `text` on the screen: wide characters take two cells, marks none."""
    if text.isascii():
        return len(text)
    return sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int, align: Align = "left", ellipsis: str = "…") -> str:
    """`text` in exactly `width` cells: padded, or cut with an ellipsis at the end."""
    size = cells(text)
    if size > width:
        text = _cut(text, width - cells(ellipsis)) + ellipsis if width > 1 else ""
        size = cells(text)
    padding = " " * (width - size)
    return padding + text if align == "right" else text + padding


def _cut(text: str, width: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += _cell(character)
        if taken > width:
            return text[:index]
    return text


def middle(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` in at most `width` cells; what is cut goes from the middle.

    Model names differ at their ends, so an ellipsis there would hide the difference.
    """
    if cells(text) <= width:
        return text
    room = width - cells(ellipsis)
    if room < 2:
        return fit(text, width, ellipsis=ellipsis)
    tail = room // 2
    return _cut(text, room - tail) + ellipsis + _cut(text[::-1], tail)[::-1]


def count(value: int | None, unknown: str = "–") -> str:
    """`1,284`, `12.8k`, `3.1M`."""
    if value is None:
        return unknown
    if value < 10_000:
        return f"{value:,}"
    if value < 1_000_000:
        return _three(value / 1000) + "k"
    return _three(value / 1_000_000) + "M"


def rate(value: float | None, unknown: str = "–") -> str:
    """Tokens per second: one decimal below ten, none from there."""
    if value is None:
        return unknown
    if 0 < value < 9.95:
        return f"{value:.1f}"
    return count(round(value))


def mib(value: float | None, unknown: str = "–") -> str:
    """MiB as `512M`, `9.4G`, `113G`."""
    if value is None:
        return unknown
    if value < 1000:
        return f"{value:.0f}M" if value >= 9.95 or value == 0 else f"{value:.1f}M"
    if value < 1000 * 1024:
        return _three(value / 1024) + "G"
    return _three(value / 1024 / 1024) + "T"


def pair(used: float | None, total: float | None, unknown: str = "–") -> str:
    """`40.9/79.6G`: two amounts of MiB, with the unit once where it is the same."""
    first, second = mib(used, unknown), mib(total, unknown)
    if first[-1] == second[-1] and used is not None and total is not None:
        first = first[:-1]
    return f"{first}/{second}"


def size(value: int | None, unknown: str = "–") -> str:
    """Bytes, as `mib` writes MiB."""
    return mib(None if value is None else value / 2**20, unknown)


def _three(value: float) -> str:
    """Three significant figures at most, `9.4`, `38.2`, `113`."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def seconds(value: float | None, unknown: str = "–") -> str:
    """A measured duration: `0.24s`, `4.1s`, `12s`, `2m05s`."""
    if value is None:
        return unknown
    if value < 0.995:
        return f"{value:.2f}s"
    if value < 9.95:
        return f"{value:.1f}s"
    return age(value)


def age(value: float | None, unknown: str = "–") -> str:
    """How long ago, or for how long: `4s`, `2m05s`, `3h12m`, `3d04h`."""
    if value is None:
        return unknown
    whole = max(0, int(value))
    if whole < 60:
        return f"{whole}s"
    minutes, s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{s:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h"


def short_age(value: float | None, unknown: str = "–") -> str:
    """`age` by its largest unit alone, in at most three cells: `48s`, `10m`, `4d`."""
    if value is None:
        return unknown
    whole = max(0, int(value))
    for unit, length in (("s", 60), ("m", 60), ("h", 24)):
        if whole < length:
            return f"{whole}{unit}"
        whole //= length
    return f"{whole}d" if whole < 100 else ">99d"


def percent(value: float | None, unknown: str = "–") -> str:
    return unknown if value is None else f"{value:.0f}%"


def share(done: int, total: int) -> int | None:
    """Whole per cent of `total`; None where the total is unknown."""
    return min(100, done * 100 // total) if total > 0 else None


def clock(epoch: float) -> str:
    """Local wall-clock time."""
    return time.strftime("%H:%M:%S", time.localtime(epoch))


def bar(fraction: float | None, width: int, table: Glyphs) -> tuple[str, str]:
    """A bar of `width` cells as (filled part, empty part); unknown is all empty."""
    steps = len(table.bar)
    filled = round(min(1.0, max(0.0, fraction or 0.0)) * width * steps)
    if fraction and filled == 0:
        filled = 1
    full, part = divmod(filled, steps)
    text = table.bar[-1] * full + (table.bar[part - 1] if part else "")
    return text, table.bar_empty * (width - len(text))


def nice_ceiling(value: float) -> float:
    """The smallest 1, 1.6, 2, 4, 6 or 8 times a power of ten that is ≥ `value`."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(m * power for m in (1, 1.6, 2, 4, 6, 8, 10) if m * power >= value)


def plural(number: int, word: str) -> str:
    """`1 stream`, `4 streams`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
