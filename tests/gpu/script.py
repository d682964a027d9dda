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
from collections.abc import Callable, Iterator, Sequence
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
from tests.gpu.steps import Runner, Running, Step

PARTS: Final = ("checks", "bench", "levers", "stack")
WITHIN_S: Final = 465.0
KERNELS: Final = ("attention", "sampling")
"""Files of checks that need neither the extension nor a model."""
ENGINE: Final = (
    "agreement", "scheduling", "speculation", "levers", "matrices", "vision"
)  # fmt: skip
"""Those of the engine. Like the kernels' they run at the same time: most of each is
compiling, on one core."""
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

    out: Path | None = None
    """The results' file, None for one of their own; what the steps said is beside it.
    Both are written anew after each step: a machine can be taken away."""
    parts: Sequence[str] = PARTS
    scale: Scale = FULL
    within_s: float = WITHIN_S
    extension: Path | None = None
    """What was built elsewhere."""
    commit: str = ""
    _began: float = field(default_factory=time.monotonic)
    _date: datetime = field(default_factory=lambda: datetime.now(UTC))

    def run(self) -> tuple[Results, Path]:
        """Everything, and the file; ends early where it is interrupted."""
        self.commit = self.commit or _commit()
        with tempfile.TemporaryDirectory(
            prefix="gpu-run-", ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            models = _models_folder(folder, in_memory=self.scale.on_gpu)

            def write() -> None:
                self._write(runner, folder)

            environ = self._environ(models)
            runner = Runner(folder, self.within_s, environ, write)
            try:
                self._steps(runner, folder, models)
            except KeyboardInterrupt:
                runner.notes.append("the run was interrupted")
            except Exception as error:  # what there is already has to be written
                traceback.print_exc()
                runner.notes.append(f"the run failed: {error}")
            runner.stop()
            if not models.is_relative_to(folder):
                shutil.rmtree(models, ignore_errors=True)
            return self._write(runner, folder)

    def _environ(self, models: Path) -> dict[str, str]:
        """Of every step."""
        environ = dict(os.environ) | {"GPU_RUN_MODELS": str(models)}
        # Where the project is not installed: not all that is started looks here.
        paths = [str(_ROOT)]
        if not self.scale.on_gpu:
            environ[VISIBLE] = ""  # the same on every machine
        if self.extension is not None:
            given = self.extension.resolve()
            if any(given.glob(f"{MODULE}*.so")):
                paths.append(str(given))
            else:
                environ[FOLDER_VARIABLE] = str(given)
        if known := environ.get("PYTHONPATH"):
            paths.append(known)
        return environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def _steps(self, runner: Runner, folder: Path, models: Path) -> None:
        def out(name: str) -> str:
            return str(folder / f"{name}.json")

        def start_checks(*files: str) -> list[Running | None]:
            if "checks" not in self.parts:
                return []
            # Where none can run, one process tells the reason.
            together = [[file] for file in files] if self.scale.on_gpu else [files]
            return [runner.start(_checks(some, out)) for some in together]

        runner.run(Step("machine", ["-m", "tests.gpu.machine", out("machine")], 40))
        checks = start_checks(*KERNELS)
        is_ready = self._prepare(runner, models)
        if is_ready:
            checks += start_checks(*ENGINE)
        runner.finish(*checks)
        if not is_ready:
            return
        for part, step in self._one_by_one(models, out):
            if part in self.parts:
                runner.run(step)

    def _prepare(self, runner: Runner, models: Path) -> bool:
        """Extension and models, at the same time; whether both are there."""
        writing = ["-m", "tests.gpu.models", str(models), *self.scale.sizes]
        needed = [runner.start(Step("models", writing, 150))]
        if self.scale.on_gpu and self.extension is None:
            # One for each core: a virtual machine may get its memory as it uses it.
            jobs = str(len(os.sched_getaffinity(0)))
            build = ["-m", "neuron", "build-ext", "--jobs", jobs]
            needed.append(runner.start(Step("extension", build, 240)))
        return runner.finish(*needed)

    def _one_by_one(
        self, models: Path, out: Callable[[str], str]
    ) -> Iterator[tuple[str, Step]]:
        """What wants the GPU for itself, and the part of the run that it belongs to."""
        scale = self.scale
        first, *others = scale.sizes
        batches = ("--batches", scale.batches)
        compared = (*batches, "--prompts", scale.prompts)
        # What is ours alone has settled when it is loaded.
        warm = ("--warm", "64")

        def bench(name: str, what: str, size: str, deadline: float, *more: str) -> Step:
            model = str(models / model_name(size))
            arguments = [*_BENCH, what, out(name), model, "--engine", scale.engine]
            arguments += [*more, *scale.extra]
            return Step(name, arguments, deadline, _lever(more))

        if scale.on_gpu:
            weights = next((models / model_name(first)).glob("*.safetensors"))
            measured = ["-m", "tests.gpu.machine", out("ceilings"), str(weights)]
            yield "bench", Step("ceilings", measured, 40)
        yield "bench", bench(f"bench-{first}", "compare", first, 110, *compared)
        yield "stack", bench(f"stack-{first}", "stack", first, 70, *batches, *warm)
        for file in ALONE:
            yield "checks", _checks([file], out)
        for changed in changed_levers():
            few = ("--batches", scale.few, "--changed", changed, *warm)
            yield "levers", bench(f"lever-{changed}", "lever", first, 50, *few)
        for size in others:
            yield "bench", bench(f"bench-{size}", "compare", size, 70, *compared)

    def _write(self, runner: Runner, folder: Path) -> tuple[Results, Path]:
        """What there is so far."""
        results = Results(
            date=self._date.isoformat(timespec="seconds"),
            commit=self.commit,
            seconds=round(time.monotonic() - self._began, 1),
        )
        for file in sorted(folder.glob("*.json")):
            try:
                results.take(read_findings(file))
            except ValueError as error:
                results.notes.append(f"{file.name}: {error}")
        results.notes += runner.notes
        path = results.save(self.out)
        path.with_suffix(".log").write_text(runner.log, encoding="utf-8")
        return results, path


def _checks(files: Sequence[str], out: Callable[[str], str]) -> Step:
    name = f"checks-{files[0]}"
    paths = [f"tests/gpu/test_{file}.py" for file in files]
    # A warning of a library on that machine is no failure of ours.
    how = ["-n", "0", "-W", "default", "-p", "tests.gpu.outcomes"]
    how += ["-p", "no:cacheprovider"]  # several at a time
    # Where one hangs, its name is the last word, and its stack before that.
    how += ["-v", "--durations=10", "-o", "faulthandler_timeout=50"]
    # Failures are among the results; 5: none could be collected here.
    environ = {outcomes.FILE: out(name)}
    return Step(name, ["-m", "pytest", *how, *paths], 150, environ, fine=(0, 1, 5))


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
