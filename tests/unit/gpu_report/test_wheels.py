"""What is brought to a machine without a network, by pip's own word."""

from pathlib import Path
from subprocess import CalledProcessError

import pytest

from tests.gpu import wheels

NEEDED = ["jinja2>=3.1.6", "torch>=2.8", "exllamav2==0.3.2", "tomlkit>=0.13"]


def test_all_that_is_needed_and_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With what packages need in turn, for another Python than this one."""
    monkeypatch.setattr(wheels, "needed", lambda: NEEDED)
    (tmp_path / "tomlkit-0.1-py3-none-any.whl").touch()
    try:
        files = wheels.fill(tmp_path, "3.13", ["Jinja2==3.1.6"])
    except CalledProcessError:
        pytest.skip("the package registry is out of reach")
    kinds = [name.partition("-")[0] for name in files]
    assert kinds == ["exllamav2", "forbiddenfruit", "markupsafe", "tomlkit"]
    assert "cp313" in files[2]
    assert files == sorted(path.name for path in tmp_path.iterdir())
