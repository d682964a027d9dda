"""What stands between the command and its first answer."""

import subprocess
import sys


def test_the_daemon_listens_before_anything_heavy_is_imported() -> None:
    code = "import neuron.cli, neuron.daemon.server, sys; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    heavy = {"numpy", "tokenizers", "jinja2", "torch", "rich"}
    assert not heavy & set(modules)
