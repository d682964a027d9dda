"""One run: what is built and written, checked and measured, in which order.

The most important comes first, since time may run out. Whatever happens, the results
are written.
"""

import os
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from neuron.engines.exllamav2.host.devices import VISIBLE
from neuron.engines.exllamav2.host.extension import FOLDER_VARIABLE, MODULE
from neuron.engines.exllamav2.levers import PREFIX, Levers
from tests.gpu import outcomes
from tests.gpu.models import model_name
from tests.gpu.results import Results, read_findings
from tests.gpu.steps import Runner, Step

PARTS: Final = ("checks", "bench", "levers", "stack")
KERNELS: Final = ("attention", "sampling")
"""Files of checks that need neither the extension nor a model."""
TOGETHER: Final = {
    "weights": ("matrices", "levers"),
    "answers": ("agreement", "scheduling", "speculation"),
    "sight": ("vision",),
}
"""Those that may run at the same time: most of theirs is compiling, on one core."""
ALONE: Final = ("loads", "daemon")
"""Those that count bytes of the GPU, and want nobody else there."""
_ROOT: Final = Path(__file__).parents[2]
_MODELS_BYTES: Final = 9 << 30
_SHARED_MEMORY: Final = Path("/dev/shm")
_BENCH: Final = ("-m", "tests.gpu.bench")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much a run measures."""

    engine: str
    sizes: tuple[str, ...]
    """Models, the most telling one first."""
    batches: str
    prompts: str
    few: str
    """Batches at which levers are measured."""
    extra: tuple[str, ...] = ()
    """Further arguments of every benchmark."""

    @property
    def on_gpu(self) -> bool:
        return self.engine == "exllamav2"


FULL: Final = Scale("exllamav2", ("8b", "1b"), "1,4,16,64", "512,4096", "1,16")
QUICK: Final = Scale("reference", ("tiny",), "1,2", "256", "1", ("--warm", "24"))
"""Where there is no GPU: the script itself, with the CPU engine as both sides."""


@dataclass(slots=True)
class Run:
    """A run under way."""

    parts: Sequence[str] = PARTS
    scale: Scale = FULL
    within_s: float = 465.0
    extension: Path | None = None
    """What was built elsewhere."""
    commit: str = ""
    _began: float = field(default_factory=time.monotonic)
    _date: datetime = field(default_factory=lambda: datetime.now(UTC))

    def run(self) -> Results:
        """Everything; ends early where it is interrupted."""
        results = Results(
            date=self._date.isoformat(timespec="seconds"),
            commit=self.commit or _commit(),
            seconds=0.0,
        )
        with tempfile.TemporaryDirectory(
            prefix="gpu-run-", ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            models = _models_folder(folder, in_memory=self.scale.on_gpu)
            runner = Runner(folder, self.within_s, self._environ(folder, models))
            try:
                self._steps(runner, folder, models)
            except KeyboardInterrupt:
                runner.notes.append("the run was interrupted")
            except Exception as error:  # what there is already has to be written
                traceback.print_exc()
                runner.notes.append(f"the run failed: {error}")
            runner.stop()
            self._collect(results, runner, folder)
            if not models.is_relative_to(folder):
                shutil.rmtree(models, ignore_errors=True)
        return results

    def _environ(self, folder: Path, models: Path) -> dict[str, str]:
        """Of every step: nothing learned by earlier runs, and nothing left for later
        ones but compiled kernels."""
        environ = dict(os.environ) | {
            "PYTHONUNBUFFERED": "1",
            "XDG_STATE_HOME": str(folder / "state"),
            "GPU_RUN_MODELS": str(models),
        }
        if not self.scale.on_gpu:
            environ[VISIBLE] = ""  # the same on every machine
        if self.extension is not None:
            given = self.extension.resolve()
            if any(given.glob(f"{MODULE}*.so")):
                known = environ.get("PYTHONPATH")
                paths = [str(given), *([known] if known else [])]
                environ["PYTHONPATH"] = os.pathsep.join(paths)
            else:
                environ[FOLDER_VARIABLE] = str(given)
        return environ

    def _steps(self, runner: Runner, folder: Path, models: Path) -> None:
        def out(name: str) -> str:
            return str(folder / f"{name}.json")

        runner.run(Step("machine", ["-m", "tests.gpu.machine", out("machine")], 40))
        checks = []
        if "checks" in self.parts:
            checks.append(runner.start(_checks("kernels", KERNELS, 150, out)))
        is_ready = self._prepare(runner, models)
        if is_ready and "checks" in self.parts:
            for name, files in TOGETHER.items():
                checks.append(runner.start(_checks(name, files, 150, out)))
        for running in checks:
            runner.finish(running)
        if not is_ready:
            return
        if "checks" in self.parts:
            runner.run(_checks("alone", ALONE, 130, out))
        for step in self._benchmarks(models, out):
            runner.run(step)

    def _prepare(self, runner: Runner, models: Path) -> bool:
        """Extension and models, at the same time; whether both are there."""
        writing = ["-m", "tests.gpu.models", str(models), *self.scale.sizes]
        needed = [runner.start(Step("models", writing, 150))]
        if self.scale.on_gpu and self.extension is None:
            build = ["-m", "neuron", "build-ext"]
            needed.append(runner.start(Step("extension", build, 300)))
        finished = [runner.finish(running) for running in needed]
        return all(finished)

    def _benchmarks(self, models: Path, out: Callable[[str], str]) -> list[Step]:
        scale, found = self.scale, []

        def bench(name: str, what: str, size: str, deadline: float, *more: str) -> None:
            model = str(models / model_name(size))
            arguments = [*_BENCH, what, out(name), model, "--engine", scale.engine]
            arguments += ["--slots", scale.batches.rpartition(",")[2]]
            found.append(
                Step(name, [*arguments, *more, *scale.extra], deadline, _lever(more))
            )

        first, *others = scale.sizes
        if "bench" in self.parts and scale.on_gpu:
            weights = next((models / model_name(first)).glob("*.safetensors"))
            measured = ["-m", "tests.gpu.machine", out("ceilings"), str(weights)]
            found.append(Step("ceilings", measured, 40))
        compared = ("--batches", scale.batches, "--prompts", scale.prompts)
        if "bench" in self.parts:
            bench(f"bench-{first}", "compare", first, 110, *compared)
        if "stack" in self.parts:
            bench(f"stack-{first}", "stack", first, 70, "--batches", scale.batches)
        for size in others:
            if "bench" in self.parts:
                bench(f"bench-{size}", "compare", size, 70, *compared)
        if "levers" in self.parts:
            for changed in changed_levers():
                few = ("--batches", scale.few, "--changed", changed)
                bench(f"lever-{changed}", "lever", first, 50, *few)
        return found

    def _collect(self, results: Results, runner: Runner, folder: Path) -> None:
        for file in sorted(folder.glob("*.json")):
            try:
                results.take(read_findings(file))
            except ValueError as error:
                results.notes.append(f"{file.name}: {error}")
        results.notes += runner.notes
        results.seconds = round(time.monotonic() - self._began, 1)


def _checks(
    name: str, files: Sequence[str], deadline: float, out: Callable[[str], str]
) -> Step:
    paths = [f"tests/gpu/test_{file}.py" for file in files]
    # A warning of a library on that machine is no failure of ours.
    how = ["-n", "0", "-q", "-W", "default", "-p", "tests.gpu.outcomes"]
    pytest = ["-m", "pytest", *how, *paths]
    # Failures are among the results; 5: none could be collected here.
    environ = {outcomes.FILE: out(f"checks-{name}")}
    return Step(f"checks-{name}", pytest, deadline, environ, fine=(0, 1, 5))


def changed_levers() -> list[str]:
    """Each switch of the engine, as it is not by default: `cuda_graphs=off`."""
    return [
        f"{lever.name}={'off' if lever.default else 'on'}"
        for lever in fields(Levers)
        if isinstance(lever.default, bool)
    ]


def _lever(arguments: Sequence[str]) -> dict[str, str]:
    """The environment that a step's `--changed` speaks of."""
    if "--changed" not in arguments:
        return {}
    name, _, value = arguments[arguments.index("--changed") + 1].partition("=")
    return {PREFIX + name.upper(): value}


def _models_folder(folder: Path, *, in_memory: bool) -> Path:
    """In memory where there is room, and else in `folder`: loads are to be as fast as
    they can."""
    try:
        if in_memory and shutil.disk_usage(_SHARED_MEMORY).free >= _MODELS_BYTES:
            return Path(tempfile.mkdtemp(prefix="gpu-run-", dir=_SHARED_MEMORY))
    except OSError:
        pass  # there is none
    models = folder / "models"
    models.mkdir()
    return models


def _commit() -> str:
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except OSError:
        return "unknown"
    return asked.stdout.strip() or "unknown"
