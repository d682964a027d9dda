"""Import boundaries as they are at run time, and the sizes that keep modules readable.

The static half is import-linter's, in pyproject.toml; what is looked at here is
`sys.modules` of real processes.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron.protocol.announce import Announcement
from tests.support.processes import Home

ROOT = Path(__file__).parent.parent
PACKAGES = ("cortex_tui", "services", "neuron")
BACKENDS = {"torch", "exllamav2", "triton"}

RUN_AND_LIST_MODULES = """
import json, sys
from cortex_tui.cli import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit:
    pass
finally:
    with open(sys.argv[2], "w") as file:
        json.dump(sorted(sys.modules), file)
"""


def modules_of(home: Home, *arguments: str) -> "tuple[subprocess.Popen[bytes], Path]":
    """Start `cortex-tui ARGUMENTS`; its `sys.modules` are in the file once it ended."""
    listing = home.root / "modules.json"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_AND_LIST_MODULES, json.dumps(arguments), listing],
        env=home.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return process, listing


def top_level(modules: list[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_serve_imports_neither_the_console_nor_a_neuron(home: Home) -> None:
    home.config_file(
        "cortex.toml",
        '[gateway]\nlisten = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:0"\n'
        '[local]\nneuron = "off"\n',
    )
    announce = home.root / "gateway.json"
    process, listing = modules_of(home, "--serve", "--announce", str(announce))
    deadline = time.monotonic() + 30
    while Announcement.read(announce) is None:
        assert process.poll() is None, "the gateway ended before it listened"
        assert time.monotonic() < deadline, "the gateway never listened"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(30)

    modules = json.loads(listing.read_text())
    assert not top_level(modules) & ({"textual", "rich", "numpy"} | BACKENDS)
    neuron = {m for m in modules if m.startswith("neuron.")}
    beyond_protocol = {m for m in neuron if not m.startswith("neuron.protocol")}
    assert beyond_protocol == set()
    assert {m for m in modules if m.startswith("services.gateway")}


def test_status_is_light(home: Home) -> None:
    process, listing = modules_of(home, "status")
    process.wait(30)
    modules = json.loads(listing.read_text())
    assert not top_level(modules) & ({"textual", "rich", "aiohttp", "numpy"} | BACKENDS)


def test_nothing_but_an_engine_imports_a_backend() -> None:
    code = f"""
import importlib, pkgutil, sys
for package in {PACKAGES!r}:
    for module in pkgutil.walk_packages([package], package + "."):
        name = module.name
        if not name.startswith("neuron.engines.") and not name.endswith("__main__"):
            importlib.import_module(name)
print(*sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not top_level(ran.stdout.split()) & BACKENDS


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    too_long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= _most_lines(node)
    }
    assert too_long == {}


def _most_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A GPU kernel names each of its many arguments, and has nothing to call."""
    decorators = map(ast.unparse, function.decorator_list)
    return 160 if any("triton.jit" in text for text in decorators) else 60
