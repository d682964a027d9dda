"""Results as files and as the README's tables."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.gpu.results import (
    Ceilings,
    Checks,
    Decode,
    Load,
    Machine,
    Memory,
    Notebook,
    Prefill,
    Results,
    Stack,
    newest,
    read_findings,
)
from tests.gpu.results.readme import BEGIN, END, with_results
from tests.gpu.results.tables import NO_RUN, tables

MACHINE = Machine(
    gpu="NVIDIA H200", vram_gib=140.4, compute_capability="9.0", driver="580.159",
    cpu="Xeon", cores=16, ram_gib=128,
)  # fmt: skip
RESULTS = Results(
    date="2026-11-24T10:20:30+00:00",
    commit="0123456789abcdef",
    machine=MACHINE,
    versions={"Python": "3.12.3", "torch": "2.11.0"},
    seconds=430,
    ceilings=Ceilings(
        device_copy_gb_s=4300, pinned_to_device_gb_s=50, file_read_gb_s=10
    ),
    checks=Checks(passed=70, skipped=1, failed={"test_loads.py::test_x": "no memory"}),
    weight_bytes={"8b": 4_000_000_000},
    decode=[
        Decode(
            model="8b", batch=1, engine="plain", tokens_per_s=200, ttft_ms=30
        ),
        Decode(model="8b", batch=1, engine="cortex", tokens_per_s=500, ttft_ms=20),
        Decode(model="8b", batch=4, engine="cortex", tokens_per_s=900, ttft_ms=40),
        Decode(
            model="8b", batch=1, engine="cortex", changed="cuda_graphs=off",
            tokens_per_s=250, ttft_ms=20,
        ),
    ],
    prefill=[
        Prefill(model="8b", tokens=512, engine="plain", ttft_ms=41),
        Prefill(model="8b", tokens=512, engine="cortex", ttft_ms=38),
    ],
    load=[Load(model="8b", engine="cortex", seconds=4, gigabytes=5, warm_up_s=3)],
    stack=[Stack(model="8b", batch=1, tokens_per_s=490)],
    memory=[
        Memory(model="8b", cache_mode="q4", planned_mib=1020, measured_mib=1000)
    ],
    notes=["stack-1b: no time was left"],
)  # fmt: skip


def test_nothing_recorded_is_said() -> None:
    assert tables(None) == NO_RUN


def test_every_table() -> None:
    text = tables(RESULTS)
    assert text.startswith("NVIDIA H200, driver 580.159; 16 cores of Xeon; Python 3.12")
    assert "Checks: 70 passed, 1 failed, 1 skipped." in text
    assert "- Failed: `test_loads.py::test_x`: no memory" in text
    assert "| 8b | 1 | 200 | 500 | 2.50 | 30 → 20 | 98.0% | 47% |" in text
    assert "| 8b | 4 |  | 900 |  | 40 |  |  |" in text
    assert "| `cuda_graphs=off` | 8b | 1 | 250 | -50% |" in text
    assert "| 8b | 512 | 41 | 38 |" in text
    assert "| 8b | cortex | 4.0 | 3.0 | 5.0 | 50% | 10% |" in text
    assert "| 8b | q4 | 1020 | 1000 | +2.0% |" in text
    assert "- Not run: stack-1b: no time was left" in text


def test_a_run_cut_short_has_tables_too() -> None:
    bare = Results(date="2026-11-24T10:20:30", commit="x", seconds=1, notes=["all: no"])
    assert tables(bare) == "2026-11-24, commit x.\n\n- Not run: all: no\n"


def test_files_are_named_by_date_and_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.gpu.results.FOLDER", tmp_path)
    RESULTS.save()
    older = RESULTS.model_copy(update={"date": "2026-11-23T23:59:59", "seconds": 1})
    older.save()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "2026-11-23T2359-nvidia-h200.json",
        "2026-11-24T1020-nvidia-h200.json",
    ]
    assert newest(tmp_path) == RESULTS


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"date": "2026"}')
    with pytest.raises(ValidationError):
        newest(tmp_path)
    assert newest(tmp_path / "nothing") is None


def test_findings_are_on_disk_as_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert read_findings(path).notes == []
    notebook = Notebook(path)
    notebook.add(decode=RESULTS.decode[:1])
    notebook.add(decode=RESULTS.decode[1:2], checks=Checks(passed=1))
    notebook.add(checks=Checks(passed=2, failed={"a": "x"}))
    found = read_findings(path)
    assert found.decode == RESULTS.decode[:2]
    assert found.checks == Checks(passed=3, failed={"a": "x"})


def test_the_readme_is_filled_between_its_marks() -> None:
    filled = with_results(f"before\n{BEGIN}\nold\n{END}\nafter")
    assert "old" not in filled
    assert filled.startswith(f"before\n{BEGIN}\n\n")
    assert filled.endswith(f"\n{END}\nafter")
    with pytest.raises(ValueError, match="0 places"):
        with_results("nothing")
