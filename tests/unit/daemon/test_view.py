"""What the daemon tells of models."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from neuron.daemon import view
from neuron.daemon.catalogue import Entry
from neuron.models.image_sizing import FixedSize
from neuron.models.vision import ImageSyntax, VisionInfo
from neuron.protocol.types import LoadPlan, ModelState
from tests.unit.worker.scripted_engine import INFO

VISION = VisionInfo(ImageSyntax("[I]", "[I]", "[I]"), FixedSize(32, 4, 4), resample=3)


def _capabilities(sees: bool, plan: LoadPlan | None = None) -> list[str]:
    info = replace(INFO, vision=VISION if sees else None)
    entry = Entry("m", info.path, info, "exllamav2", None)
    instance = None
    if plan is not None:
        known: Any = SimpleNamespace(
            plan=plan, state=ModelState.READY, progress=None, error=None, loaded_at=None
        )
        instance = cast("Any", known)
    return view.model(entry, instance, None).capabilities


def test_vision_is_told_where_images_are_looked_at() -> None:
    assert "vision" in _capabilities(sees=True)
    assert "vision" in _capabilities(sees=True, plan=LoadPlan())
    assert "vision" not in _capabilities(sees=False)


def test_vision_is_not_told_of_a_load_that_is_blind() -> None:
    assert "vision" not in _capabilities(sees=True, plan=LoadPlan(draft="d"))
    blind = LoadPlan(tensor_parallel=True)
    assert "vision" not in _capabilities(sees=True, plan=blind)
