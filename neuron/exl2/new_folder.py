"""A folder that appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuron.exl2.conversion_plan import ConvertError


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes it, or vanishes on any error.

    Raises:
        ConvertError: the target exists and is not an empty folder.
        OSError: the folder cannot be made.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConvertError(f"{target} exists and is not an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.partial-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder)
        raise
