"""The results as the README shows them, in Markdown."""

from collections.abc import Iterable, Sequence

from tests.gpu.results import Checks, Decode, Load, Memory, Prefill, Results

NO_RUN = "No run on a GPU has been recorded yet.\n"


def tables(results: Results | None) -> str:
    """Everything, most important first."""
    if results is None:
        return NO_RUN
    failed = {} if results.checks is None else results.checks.failed
    parts = [
        _heading(results),
        _decode_table(results),
        _levers_table(results.decode),
        _prefill_table(results.prefill),
        _load_table(results),
        _memory_table(results.memory),
        "".join(f"- Failed: `{name}`: {why}\n" for name, why in failed.items()),
        "".join(f"- Not run: {note}\n" for note in results.notes),
    ]
    return "\n".join(part for part in parts if part)


def _heading(results: Results) -> str:
    parts = []
    if (machine := results.machine) is not None:
        parts.append(f"{machine.gpu}, driver {machine.driver}")
        parts.append(f"{machine.cores} cores of {machine.cpu}")
    if results.versions:
        parts.append(", ".join(f"{k} {v}" for k, v in results.versions.items()))
    parts.append(f"{results.date[:10]}, commit {results.commit[:10]}")
    text = "; ".join(parts) + "."
    if results.checks is not None:
        text += f" {_checks(results.checks)}"
    return text + "\n"


def _checks(checks: Checks) -> str:
    said = f"Checks: {checks.passed} passed, {len(checks.failed)} failed"
    return f"{said}, {checks.skipped} skipped." if checks.skipped else f"{said}."


def _decode_table(results: Results) -> str:
    plain = {
        (run.model, run.batch): run for run in results.decode if run.engine == "plain"
    }
    stack = {(run.model, run.batch): run.tokens_per_s for run in results.stack}
    rows = []
    for run in _unchanged(results.decode):
        base = plain.get((run.model, run.batch))
        rows.append(
            [
                run.model,
                str(run.batch),
                "" if base is None else f"{base.tokens_per_s:.0f}",
                f"{run.tokens_per_s:.0f}",
                "" if base is None else f"{run.tokens_per_s / base.tokens_per_s:.2f}",
                _ttft(base, run),
                _share(stack.get((run.model, run.batch)), run.tokens_per_s),
                _roofline(results, run),
            ]
        )
    head = [
        "Model", "Streams", "exllamav2's own, tok/s", "cortex, tok/s", "ratio",
        "TTFT, ms", "through the stack", "of the bandwidth",
    ]  # fmt: skip
    return _table(head, rows)


def _unchanged(runs: Iterable[Decode]) -> list[Decode]:
    return [run for run in runs if run.engine == "cortex" and run.changed is None]


def _ttft(base: Decode | None, run: Decode) -> str:
    ours = f"{run.ttft_ms:.0f}"
    return ours if base is None else f"{base.ttft_ms:.0f} → {ours}"


def _roofline(results: Results, run: Decode) -> str:
    """How much of the memory bandwidth the weights alone take, one stream at a time."""
    weights = results.weight_bytes.get(run.model)
    if weights is None or results.ceilings is None or run.batch != 1:
        return ""
    read = weights * run.tokens_per_s / 1e9
    return f"{read / results.ceilings.device_copy_gb_s:.0%}"


def _share(part: float | None, whole: float) -> str:
    return "" if part is None else f"{part / whole:.1%}"


def _levers_table(runs: Sequence[Decode]) -> str:
    """Each lever against the defaults, on the same model and batch."""
    defaults = {(run.model, run.batch): run.tokens_per_s for run in _unchanged(runs)}
    rows = []
    for run in runs:
        if run.changed is None:
            continue
        base = defaults.get((run.model, run.batch))
        change = "" if base is None else f"{run.tokens_per_s / base - 1:+.0%}"
        speed = f"{run.tokens_per_s:.0f}"
        rows.append([f"`{run.changed}`", run.model, str(run.batch), speed, change])
    return _table(["Lever", "Model", "Streams", "tok/s", "change"], rows)


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
    head = ["Model", "Prompt", "exllamav2's own TTFT, ms", "cortex, ms"]
    return _table(head, rows)


def _load_table(results: Results) -> str:
    rows = [
        [
            run.model,
            run.engine if run.changed is None else f"{run.engine}, `{run.changed}`",
            f"{run.seconds:.1f}",
            f"{run.warm_up_s:.1f}" if run.warm_up_s else "",
            f"{_rate(run):.1f}",
            "" if results.ceilings is None else
            f"{_rate(run) / results.ceilings.file_read_gb_s:.0%}",
            "" if results.ceilings is None else
            f"{_rate(run) / results.ceilings.pinned_to_device_gb_s:.0%}",
        ]
        for run in results.load
    ]  # fmt: skip
    head = [
        "Model", "Loaded by", "s", "of it warm-up", "GB/s without it",
        "of reading", "of the bus",
    ]  # fmt: skip
    return _table(head, rows)


def _rate(run: Load) -> float:
    return run.gigabytes / max(1e-9, run.seconds - run.warm_up_s)


def _memory_table(runs: Sequence[Memory]) -> str:
    rows = [
        [
            run.model,
            run.cache_mode,
            f"{run.planned_mib:.0f}",
            f"{run.measured_mib:.0f}",
            f"{run.planned_mib / run.measured_mib - 1:+.1%}",
        ]
        for run in runs
    ]
    return _table(["Model", "Cache", "planned, MiB", "took, MiB", ""], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    ruler = ["---"] * len(head)
    return "".join(f"| {' | '.join(row)} |\n" for row in (list(head), ruler, *lines))
