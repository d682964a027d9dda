"""What a run on a GPU found, as a file and as the README's tables.

`python -m tests.gpu.results` prints the tables of the newest file.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

FOLDER: Final = Path(__file__).parent / "results"


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


class Tests(Part):
    """How the checks went."""

    passed: int
    skipped: int
    failed: list[str] = Field(default_factory=list)


class Decode(Part):
    """`batch` streams that decode at once, in the middle of their answers."""

    model: str
    batch: int
    engine: str
    """`plain` is exllamav2 driven by its own generator; `cortex` is ours."""
    without: str | None = None
    """The lever that was off."""
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


class Results(Part):
    """One run."""

    date: str
    """ISO 8601, UTC."""
    commit: str
    machine: Machine
    versions: dict[str, str]
    seconds: float
    ceilings: Ceilings | None = None
    tests: Tests | None = None
    weight_bytes: dict[str, int] = Field(default_factory=dict)
    """Model → what one token's step reads of it, at least."""
    decode: list[Decode] = Field(default_factory=list)
    prefill: list[Prefill] = Field(default_factory=list)
    load: list[Load] = Field(default_factory=list)
    stack: list[Stack] = Field(default_factory=list)
    memory: list[Memory] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """Parts that did not run, and why."""

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the file, named by date and GPU; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        gpu = self.machine.gpu.lower().replace(" ", "-")
        stamp = self.date[:16].replace(":", "")
        path = folder / f"{stamp}-{gpu}.json"
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


def tables(results: Results | None) -> str:
    """The results in Markdown."""
    if results is None:
        return "No run on a GPU has been recorded yet.\n"
    machine = results.machine
    versions = ", ".join(f"{name} {text}" for name, text in results.versions.items())
    ran_on = f"{machine.gpu}, driver {machine.driver}, {machine.cores} cores of"
    parts = [
        f"{ran_on} {machine.cpu}; {versions}; {results.date[:10]}.\n",
        _decode_table(results),
        _prefill_table(results.prefill),
        *(f"Not run: {note}\n" for note in results.notes),
    ]
    return "\n".join(part for part in parts if part)


def _decode_table(results: Results) -> str:
    plain = {
        (run.model, run.batch): run for run in results.decode if run.engine == "plain"
    }
    stack = {(run.model, run.batch): run.tokens_per_s for run in results.stack}
    rows = []
    for run in results.decode:
        if run.engine != "cortex" or run.without is not None:
            continue
        key = (run.model, run.batch)
        base = plain.get(key)
        rows.append(
            [
                run.model,
                str(run.batch),
                "" if base is None else f"{base.tokens_per_s:.0f}",
                f"{run.tokens_per_s:.0f}",
                "" if base is None else f"{run.tokens_per_s / base.tokens_per_s:.2f}",
                _share(stack.get(key), run.tokens_per_s),
                _roofline(results, run),
            ]
        )
    head = [
        "Model", "Streams", "exllamav2's own, tok/s", "cortex, tok/s", "ratio",
        "through the stack", "of the bandwidth",
    ]  # fmt: skip
    return _table(head, rows)


def _roofline(results: Results, run: Decode) -> str:
    """How much of the memory bandwidth the weights alone take, one stream at a time."""
    weights = results.weight_bytes.get(run.model)
    if weights is None or results.ceilings is None or run.batch != 1:
        return ""
    read = weights * run.tokens_per_s / 1e9
    return f"{read / results.ceilings.device_copy_gb_s:.0%}"


def _share(part: float | None, whole: float) -> str:
    return "" if part is None else f"{part / whole:.1%}"


def _prefill_table(runs: Sequence[Prefill]) -> str:
    plain = {
        (run.model, run.tokens): run.ttft_ms for run in runs if run.engine == "plain"
    }
    rows = [
        [
            run.model,
            str(run.tokens),
            f"{plain[key]:.0f}" if (key := (run.model, run.tokens)) in plain else "",
            f"{run.ttft_ms:.0f}",
        ]
        for run in runs
        if run.engine == "cortex"
    ]
    return _table(["Model", "Prompt", "its TTFT, ms", "cortex, ms"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    ruler = ["---"] * len(head)
    return "".join(f"| {' | '.join(row)} |\n" for row in (list(head), ruler, *lines))


if __name__ == "__main__":
    sys.stdout.write(tables(newest()))
