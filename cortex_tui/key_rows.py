"""Keys as rows, for the console's dialog and for `cortex-tui keys list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortex_tui import format as f
from cortex_tui.table import Cell, Column, Row, Tone, cell

if TYPE_CHECKING:
    from cortex_tui.format import Glyphs
    from services.schema import KeyList, KeyView

KEYS = (
    Column("name", "NAME", 12, 1, flex=12),
    Column("id", "ID", 11, 11),
    Column("scope", "SCOPE", 9, 3),
    Column("models", "MODELS", 12, 9, flex=30),
    Column("priority", "PRIO", 4, 10, "right"),
    Column("requests", "REQ/MIN", 8, 5, "right"),
    Column("minute", "TOK/MIN", 11, 7, "right"),
    Column("tokens", "TOKENS", 13, 2, "right"),
    Column("cost", "COST", 11, 6, "right"),
    Column("window", "WINDOW", 6, 8, "right"),
    Column("renews", "RENEWS", 6, 8, "right"),
    Column("used", "USED", 5, 4, "right"),
)
LITTLE_LEFT = 0.9


def key_rows(keys: list[KeyView], g: Glyphs, now: float) -> list[Row]:
    """Every key, in the order of the file; revoked ones step back."""
    return [_row(key, g, now) for key in keys]


def summary(keys: KeyList) -> str:
    """Whether a key is needed, and how many there are."""
    good = sum(not key.revoked for key in keys.keys)
    asked = "asked of everybody" if keys.required else "not asked for"
    return f"{f.plural(good, 'key')}, {asked}"


def _row(key: KeyView, g: Glyphs, now: float) -> Row:
    tokens = key.prompt_tokens + key.completion_tokens
    used = None if key.last_used is None else now - key.last_used
    unknown = g.unknown
    return Row(
        key.id,
        {
            "name": cell(f.clean(key.name), "strong"),
            "id": cell(f"ck-{key.id}"),
            "scope": cell("revoked", "bad") if key.revoked else cell(key.scope),
            "models": cell(f.clean(" ".join(key.models))),
            "priority": cell(str(key.priority), "" if key.priority else "muted"),
            "requests": _of(key.last_minute_requests, key.requests_per_minute, unknown),
            "minute": _of(key.last_minute_tokens, key.tokens_per_minute, unknown),
            "tokens": _of(tokens, key.budget_tokens),
            "cost": _money(key.cost, key.budget_cost, unknown),
            "window": cell(key.window, "muted"),
            "renews": cell(f.short_age(key.renews_at - now), "muted"),
            "used": cell(f.short_age(used, unknown), "" if used else "muted"),
        },
        dim=key.revoked,
    )


def _of(spent: int, limit: int | None, unlimited: str | None = None) -> Cell:
    """`1.2M/5.0M`; without a limit what was spent, or that there is none."""
    if limit is None:
        return cell(f.count(spent) if unlimited is None else unlimited, "muted")
    return cell(f"{f.count(spent)}/{f.count(limit)}", _tone(spent, limit))


def _money(spent: float, limit: float | None, unknown: str) -> Cell:
    if limit is None:
        return cell(f"{spent:.2f}" if spent else unknown, "" if spent else "muted")
    return cell(f"{spent:.2f}/{limit:.2f}", _tone(spent, limit))


def _tone(spent: float, limit: float) -> Tone:
    if spent >= limit:
        return "bad"
    return "warn" if spent >= LITTLE_LEFT * limit else ""
