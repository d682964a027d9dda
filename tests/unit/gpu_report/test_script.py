"""The whole script, with the CPU engine as both sides."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.exllamav2.host.extension import FOLDER_VARIABLE
from neuron.engines.reference.engine import ReferenceEngine
from tests.gpu import script
from tests.gpu.bench import __main__ as bench
from tests.gpu.models import write_tiny
from tests.gpu.results import Findings, Results, read_findings

GPU = Path(script.__file__).parent


def _quick_run(out: Path) -> Results:
    command = [sys.executable, "-m", "tests.gpu", "--quick", "--out", str(out)]
    # The run's own pytest is no part of this one, nor of its coverage.
    ours = {"PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"}
    environ = {name: text for name, text in os.environ.items() if name not in ours}
    environ["TMPDIR"] = str(out.parent)
    done = subprocess.run(
        [*command, "--commit", "abc"],
        env=environ, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    found = Results.model_validate_json(out.read_text(encoding="utf-8"))
    assert found.notes == []
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    said = out.with_suffix(".log").read_text(encoding="utf-8")
    assert "=== checks-agreement, " in said
    assert "SKIPPED" in said
    return found


@pytest.mark.timeout(120)
def test_a_run_measures_everything(tmp_path: Path) -> None:
    """One test, since one run is twenty processes."""
    results = _quick_run(tmp_path / "results.json")
    measured = {(run.engine, run.batch) for run in results.decode if not run.changed}
    assert measured == {(side, n) for side in ("plain", "cortex") for n in (1, 2)}
    prefilled = {(run.engine, run.tokens) for run in results.prefill}
    assert prefilled == {("plain", 256), ("cortex", 256)}
    assert all(run.tokens_per_s > 0 and run.ttft_ms > 0 for run in results.decode)
    changed = {run.changed for run in results.decode if run.changed}
    assert changed == set(script.changed_levers())
    assert {"cuda_graphs=off", "triton_gemm=on"} <= changed
    assert [run.batch for run in results.stack] == [1, 2]
    _check_what_it_says_of_itself(results)


def _check_what_it_says_of_itself(results: Results) -> None:
    assert results.checks is not None
    assert results.checks.failed == {}
    assert results.checks.passed == 0
    assert results.checks.skipped > 50
    assert results.commit == "abc"
    assert results.machine is not None
    assert results.machine.cores >= 1
    assert "Python" in results.versions
    assert results.weight_bytes["synthetic-tiny"] > 0


def test_a_side_that_fails_leaves_the_other_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first engine cannot be loaded."""
    folder, out = write_tiny(tmp_path / "model"), tmp_path / "out.json"
    loads: list[object] = []
    own = ReferenceEngine.load

    def load(self: ReferenceEngine, *arguments: Any) -> None:
        loads.append(self)
        if len(loads) == 1:
            raise RuntimeError("CUDA says no")
        own(self, *arguments)

    monkeypatch.setattr(ReferenceEngine, "load", load)
    few = ["--engine", "reference", "--batches", "1", "--warm", "12", "--tokens", "20"]
    assert bench.main(["compare", str(out), str(folder), *few]) == 0
    found = read_findings(out)
    assert found.notes == ["model, plain: CUDA says no"]
    assert [run.engine for run in found.decode] == ["cortex"]


def test_every_file_of_checks_is_run() -> None:
    named = [*script.KERNELS, *script.ENGINE, *script.ALONE]
    files = [file.name for file in GPU.glob("test_*.py")]
    assert sorted(f"test_{name}.py" for name in named) == sorted(files)


def test_a_run_without_models_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    way = tmp_path / "no" / "way"
    monkeypatch.setattr(script, "_models_folder", lambda *_, **__: way)
    (tmp_path / "no").write_text("a file")
    found, _ = script.Run(
        tmp_path / "out.json", parts=("bench",), scale=script.QUICK, commit="x"
    ).run()
    assert len(found.notes) == 1
    assert found.notes[0].startswith("models: exit code 1 (")
    assert found.decode == []
    assert found.machine is not None


def test_whatever_happens_there_are_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_run: script.Run, _runner: object, folder: Path, _models: Path) -> None:
        (folder / "machine.json").write_text('{"versions": {"x": "1"}}')
        (folder / "cut.json").write_text('{"versions"')
        raise OSError("no space left")

    monkeypatch.setattr(script.Run, "_steps", fail)
    out = tmp_path / "out.json"
    found, path = script.Run(out, scale=script.QUICK, commit="x").run()
    assert path == out
    assert Results.model_validate_json(out.read_text()) == found
    assert found.versions == {"x": "1"}
    assert found.notes[0].startswith("cut.json: ")
    assert found.notes[1] == "the run failed: no space left"


def test_an_extension_is_taken_from_either_kind_of_folder(tmp_path: Path) -> None:
    run = script.Run(extension=tmp_path)
    kept = run._environ(tmp_path)
    assert kept[FOLDER_VARIABLE] == str(tmp_path)
    (tmp_path / "exllamav2_ext.cpython-311-x86_64-linux-gnu.so").touch()
    bare = run._environ(tmp_path)
    assert str(tmp_path) in bare["PYTHONPATH"].split(os.pathsep)


def test_a_project_that_is_not_installed_is_found(tmp_path: Path) -> None:
    """By compilers' processes too, which do not look into their working folder."""
    subprocess.run(
        [sys.executable, "-P", "-S", "-c", "import neuron, tests.gpu"],
        env=script.Run()._environ(tmp_path), cwd=tmp_path, timeout=30, check=True,
    )  # fmt: skip


def test_what_is_measured_comes_in_its_order(tmp_path: Path) -> None:
    """First what the aims speak of."""
    weights = tmp_path / "synthetic-8b" / "output.safetensors"
    weights.parent.mkdir()
    weights.touch()
    steps = list(script.Run()._one_by_one(tmp_path, str))
    assert [step.name for _, step in steps] == [
        "ceilings", "bench-8b", "stack-8b", "checks-loads", "checks-daemon",
        *(f"lever-{changed}" for changed in script.changed_levers()), "bench-1b",
    ]  # fmt: skip
    assert {part for part, _ in steps} == set(script.PARTS)


def test_findings_of_steps_are_put_together() -> None:
    found = Findings(notes=["a"], weight_bytes={"m": 1})
    found.take(Findings(notes=["b"], weight_bytes={"n": 2}, versions={"x": "1"}))
    assert found.notes == ["a", "b"]
    assert found.weight_bytes == {"m": 1, "n": 2}
