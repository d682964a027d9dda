"""What `neuron doctor` found, as a table and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "note", "lacks"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    """`lacks` keeps the engine from serving; a `note` is worth knowing."""
    detail: str
    mend: str | None = None
    """What to do about it, in one line."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine, and all that it needs of this host."""

    name: str
    checks: tuple[Check, ...]

    @property
    def available(self) -> bool:
        return all(check.state != "lacks" for check in self.checks)


@dataclass(frozen=True, slots=True)
class Report:
    """This host."""

    host: tuple[Check, ...]
    engines: tuple[EngineReport, ...]

    def serves(self, engine: str | None = None) -> bool:
        """Whether any engine can serve here, or that one."""
        return all(check.state != "lacks" for check in self.host) and any(
            each.available for each in self.engines if engine in (None, each.name)
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "can_serve": self.serves(),
            "host": [asdict(check) for check in self.host],
            "engines": [
                {
                    "name": engine.name,
                    "available": engine.available,
                    "checks": [asdict(check) for check in engine.checks],
                }
                for engine in self.engines
            ],
        }

    def lines(self) -> Iterator[str]:
        """A plain table; what to do stands below what it would mend."""
        width = max(
            len(check.name)
            for checks in (self.host, *(each.checks for each in self.engines))
            for check in checks
        )
        yield "this host"
        yield from _rows(self.host, width)
        for engine in self.engines:
            yield ""
            yield f"{engine.name}: {'can' if engine.available else 'cannot'} serve"
            yield from _rows(engine.checks, width)


def _rows(checks: tuple[Check, ...], width: int) -> Iterator[str]:
    for check in checks:
        yield f"  {check.state:<5}  {check.name:<{width}}  {check.detail}"
        if check.mend:
            yield f"  {'':<5}  {'':<{width}}  -> {check.mend}"
