"""What a run on a GPU found, as a file.

`python -m tests.gpu.results` writes the tables of the newest file into the README.
"""

import os
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

FOLDER: Final = Path(__file__).parents[1] / "recorded"


class Part(BaseModel):
    """A part of the results; units are in the names."""

    model_config = ConfigDict(extra="forbid")


class Machine(Part):
    """What it ran on."""

    gpu: str
    vram_gib: float
    compute_capability: str
    driver: str
    cpu: str
    cores: int
    ram_gib: float


class Ceilings(Part):
    """What the machine itself reaches, measured in the same run."""

    device_copy_gb_s: float
    """Bytes read plus bytes written, of a large copy on the device."""
    pinned_to_device_gb_s: float
    file_read_gb_s: float
    """Of a model's file, as warm as the loads find it."""


class Checks(Part):
    """How the checks went."""

    passed: int = 0
    skipped: int = 0
    failed: dict[str, str] = Field(default_factory=dict)
    """Test → why, in a line."""
    measured: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Test → what it measured, and the bound beside it."""

    def __add__(self, other: "Checks") -> "Checks":
        return Checks(
            passed=self.passed + other.passed,
            skipped=self.skipped + other.skipped,
            failed=self.failed | other.failed,
            measured=self.measured | other.measured,
        )


class Decode(Part):
    """`batch` streams that decode at once, in the middle of their answers."""

    model: str
    batch: int
    engine: str
    """`plain` is exllamav2 driven by its own generator; `cortex` is ours."""
    changed: str | None = None
    """The lever that was not at its default, such as `cuda_graphs=off`."""
    tokens_per_s: float
    ttft_ms: float
    """Of the last of the streams, all submitted at once with short prompts."""


class Prefill(Part):
    """One prompt on an idle engine, none of it cached."""

    model: str
    tokens: int
    engine: str
    ttft_ms: float


class Load(Part):
    """From the call to ready."""

    model: str
    engine: str
    changed: str | None = None
    """As in `Decode`."""
    seconds: float
    gigabytes: float
    warm_up_s: float = 0.0
    """Of the seconds, what went into compiling, tuning and recording."""


class Stack(Part):
    """Through gateway, neuron and worker, over HTTP."""

    model: str
    batch: int
    tokens_per_s: float


class Memory(Part):
    """What a plan said and what was measured."""

    model: str
    cache_mode: str
    planned_mib: float
    measured_mib: float


class Findings(Part):
    """What one step of a run found."""

    machine: Machine | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    ceilings: Ceilings | None = None
    checks: Checks | None = None
    weight_bytes: dict[str, int] = Field(default_factory=dict)
    """Model → what one token's step reads of it, at least."""
    decode: list[Decode] = Field(default_factory=list)
    prefill: list[Prefill] = Field(default_factory=list)
    load: list[Load] = Field(default_factory=list)
    stack: list[Stack] = Field(default_factory=list)
    memory: list[Memory] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """Parts that did not run, and why."""

    def take(self, other: "Findings") -> None:
        """Add what another step found; single values of its replace those here."""
        for name in Findings.model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(theirs, list):
                mine.extend(theirs)
            elif isinstance(theirs, dict):
                mine.update(theirs)
            elif isinstance(mine, Checks) and isinstance(theirs, Checks):
                setattr(self, name, mine + theirs)
            elif theirs is not None:
                setattr(self, name, theirs)


class Notebook:
    """A step's findings, on disk as soon as they are made: it may be cut short."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = Findings()

    def add(self, **found: Any) -> None:
        """Fields of `Findings`; lists are appended to."""
        self._found.take(Findings.model_validate(found))
        draft = self._path.with_suffix(".tmp")
        draft.write_text(self._found.model_dump_json(), encoding="utf-8")
        os.replace(draft, self._path)


class Results(Findings):
    """One run."""

    date: str
    """ISO 8601, UTC."""
    commit: str
    seconds: float

    def save(self, path: Path | None = None) -> Path:
        """Write the file; its own name, where none is given, says date and GPU."""
        if path is None:
            gpu = "none" if self.machine is None else self.machine.gpu
            stamp = self.date[:16].replace(":", "")
            path = FOLDER / f"{stamp}-{gpu.lower().replace(' ', '-')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path


def newest(folder: Path = FOLDER) -> Results | None:
    """The newest file's results; None where there is none.

    Raises:
        ValidationError: it is not one of these files.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        return None
    return Results.model_validate_json(paths[-1].read_text(encoding="utf-8"))


def read_findings(path: Path) -> Findings:
    """What a step left; nothing where it left nothing."""
    if not path.is_file():
        return Findings()
    return Findings.model_validate_json(path.read_text(encoding="utf-8"))
