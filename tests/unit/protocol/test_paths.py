"""Where the user's files are, and whose they have to be."""

import os
import tempfile
from pathlib import Path

import pytest

from neuron.protocol import paths


def test_the_runtime_folder_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "cortex").mkdir(mode=0o755)
    assert paths.runtime_dir() == tmp_path / "cortex"
    assert (tmp_path / "cortex").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("link", [False, True])
def test_no_other_user_chooses_the_runtime_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    theirs = tmp_path / f"cortex-{os.getuid()}"
    (tmp_path / "mine").mkdir()
    if link:
        theirs.symlink_to(tmp_path / "mine")
    else:
        theirs.mkdir()
    os.chown(theirs, 1234, 1234, follow_symlinks=False)
    with pytest.raises(PermissionError, match="belongs to another user"):
        paths.runtime_dir()
