"""The library's vision towers, loaded and run on the CPU through our own loader.

Its modules, preprocessors and mergers are the real ones; only three kernels are
replaced: norms and the rotation of positions.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")

import torch
from PIL import Image as pillow

from neuron.engines.base import EngineError, Image, LoadSpec
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.modules import aligned
from neuron.engines.exllamav2.memory.requirements import requirements_of
from neuron.engines.exllamav2.vision.config import library_vision
from neuron.models.info import ModelInfo
from neuron.protocol.types import LoadOptions
from tests.support.pictures import noise
from tests.support.vision_reference import TowerReference
from tests.unit.exllamav2 import vision_models
from tests.unit.exllamav2.cpu_library import CpuMemory, library_on_the_cpu
from tests.unit.exllamav2.vision_models import FAMILIES, TEXT, write_vision

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

SIZES: Final = [(64, 64), (16, 48), (31, 9), (100, 40), (17, 200), (640, 480)]


def rms_norm(x: Any, weight: Any, out: Any, eps: float) -> None:
    rms = x.float().pow(2).mean(-1, keepdim=True).add(eps).rsqrt()
    out.copy_(x.float() * rms * weight.float())


def layer_norm(x: Any, weight: Any, bias: Any, out: Any, eps: float) -> None:
    shift = None if bias.is_meta else bias.float()
    width = weight.shape
    normed = torch.nn.functional.layer_norm(
        x.float(), width, weight.float(), shift, eps
    )
    out.copy_(normed)


def rope(
    x: Any,
    sin: Any,
    cos: Any,
    past: int,
    heads: int,
    dim: int,
    offsets: Any,
    neox: bool,
) -> None:
    assert neox
    assert past == 0
    half = dim // 2
    rows = x.view(x.shape[0], -1, heads, dim)
    s, c = (t.reshape(-1, dim)[None, :, None, :half].float() for t in (sin, cos))
    first, second = rows[..., :half].float(), rows[..., half:].float()
    rows.copy_(torch.cat((first * c - second * s, second * c + first * s), -1))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with library_on_the_cpu() as (backend, handles):
        library = backend.exllamav2
        from neuron.engines.exllamav2.attention import flash

        kernels = SimpleNamespace(rms_norm=rms_norm, layer_norm=layer_norm)
        monkeypatch.setattr(library.rmsnorm, "ext_c", kernels)
        monkeypatch.setattr(library.layernorm, "ext_c", kernels)
        monkeypatch.setattr(handles, "rope_", rope, raising=False)
        for name in ("flash_attn_func", "flash_attn_varlen_func"):
            monkeypatch.setattr(library.attn, name, getattr(flash, name), raising=False)
        for module in (library.vlm.vision_tower, library.attn_params):
            monkeypatch.setattr(module, "safe_move_tensor", lambda t, *_, **__: t)
        yield backend


def spec_of(info: ModelInfo, **options: Any) -> LoadSpec:
    return LoadSpec(
        info, max_seq_len=256, slots=2, cache_mode="fp16", cache_tokens=512,
        devices=(0,), options=LoadOptions(**options),
    )  # fmt: skip


def load(backend: Any, spec: LoadSpec, **changes: Any) -> Any:
    from neuron.engines.exllamav2.loading.load import load_model

    settings: dict[str, Any] = {
        "progress": lambda *_: None,
        "cancelled": lambda: False,
        "levers": Levers(),
        "vram": CpuMemory([1 << 30] * len(spec.devices)),
    }
    return load_model(backend, spec, **settings | changes)


def image_of(picture: pillow.Image, info: ModelInfo) -> Image:
    """As the worker hands it on."""
    assert info.vision is not None
    grid = info.vision.grid(*picture.size)
    resample = pillow.Resampling(info.vision.resample)
    small = picture.resize((grid.width, grid.height), resample)
    return Image.of(np.asarray(small), tuple(range(grid.tokens)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tower_makes_as_many_embeddings_as_the_prompt_has_places(
    tmp_path: Path, backend: Any, name: str
) -> None:
    info = write_vision(tmp_path / "m", name)
    assert info.vision is not None
    loaded = load(backend, spec_of(info))
    for number, size in enumerate(SIZES):
        picture = noise(*size, seed=number)
        seen = loaded.eyes.of(image_of(picture, info))
        assert loaded.eyes.look(seen)
        grid = info.vision.grid(*size)
        assert seen.embeddings.shape == (grid.tokens, TEXT.hidden)
        assert seen.embeddings.dtype == torch.float16
        assert seen.embeddings.isfinite().all()
        assert not loaded.eyes.look(loaded.eyes.of(image_of(picture, info)))
        # As the library counts rows and columns of patches.
        merge = loaded.config.vision_spatial_merge_size
        frames, rows, columns = seen.thw_grid
        if name != "gemma3":
            assert (frames, rows // merge, columns // merge) == (
                1, grid.rows, grid.columns,
            )  # fmt: skip
    loaded.eyes.rehearse()


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_are_those_that_the_family_computes(
    tmp_path: Path, backend: Any, name: str
) -> None:
    info = write_vision(tmp_path / "m", name)
    loaded = load(backend, spec_of(info))
    family = FAMILIES[name]
    judge = TowerReference(info.path, name, family.config, family.preprocessor)
    for size in ((64, 64), (16, 48), (100, 40)):
        image = image_of(noise(*size), info)
        seen = loaded.eyes.of(image)
        loaded.eyes.look(seen)
        wanted = judge.embeddings(image.pixels)
        error = (seen.embeddings.float() - wanted).norm() / wanted.norm()
        assert error < 5e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_images_are_sized_as_the_library_sizes_them(
    tmp_path: Path, backend: Any, name: str
) -> None:
    """From a picture as it was sent, and from one that was resized already."""
    info = write_vision(tmp_path / "m", name)
    loaded = load(backend, spec_of(info))
    tower = loaded.eyes._tower
    for width in (8, 9, 31, 64, 65, 200):
        for height in (8, 20, 64, 131):
            picture = noise(width, height)
            theirs, size, _, _ = tower.preprocess_func(tower.config, picture)
            image = image_of(picture, info)
            assert image.pixels.shape == (size[1], size[0], 3)
            ours, again, _, _ = tower.preprocess_func(
                tower.config, pillow.fromarray(image.pixels)
            )
            assert again == size
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tower_is_planned_for_and_freed(
    tmp_path: Path, backend: Any, name: str
) -> None:
    from neuron.engines.exllamav2.loading.load import free

    info = write_vision(tmp_path / "m", name)
    stages: dict[str, tuple[int, int]] = {}

    def follow(stage: str, done: int, total: int) -> None:
        stages[stage] = done, total

    loaded = load(backend, spec_of(info), progress=follow)
    assert stages["vision"][0] == stages["vision"][1] > 0
    [need] = requirements_of(spec_of(info), Levers()).on_one().needs
    kept = sum(
        aligned(2 * int(np.prod(shape)))
        for shape in vision_models.tower_sizes(name).values()
    )
    assert kept <= need.parts["vision"] <= kept + (8 << 20)
    held = loaded.eyes
    free(loaded)
    assert loaded.eyes is None
    assert not hasattr(held, "_tower")


@pytest.mark.parametrize("options", [{"tensor_parallel": True}, {"draft": "d"}])
def test_a_load_that_cannot_see_spares_the_tower(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    info = write_vision(tmp_path / "m", "qwen2-vl")
    seeing = requirements_of(spec_of(info), Levers())
    blind = requirements_of(spec_of(info, **options), Levers())
    assert seeing.vision == info.vision
    assert blind.vision is None
    assert seeing.key(["gpu"]) != blind.key(["gpu"])


def test_attention_has_the_towers_own_scale(tmp_path: Path, backend: Any) -> None:
    loaded = load(backend, spec_of(write_vision(tmp_path / "m", "gemma3")))
    library = backend.exllamav2
    attention = library.attn.ExLlamaV2Attention
    scales = {
        name: {m.scaling for m in model.modules if isinstance(m, attention)}
        for name, model in (("text", loaded.model), ("eyes", loaded.eyes._tower))
    }
    assert scales["text"] == {256**-0.5}
    assert scales["eyes"] == {(vision_models.WIDTH // 2) ** -0.5}


@pytest.mark.parametrize(
    ("name", "norm"), [("qwen2-vl", "LayerNorm"), ("qwen2.5-vl", "RMSNorm")]
)
def test_mergers_have_the_norm_they_were_trained_with(
    tmp_path: Path, backend: Any, name: str, norm: str
) -> None:
    loaded = load(backend, spec_of(write_vision(tmp_path / "m", name)))
    merger = loaded.eyes._tower.modules[-1]
    assert type(merger.pre_layernorm).__name__ == f"ExLlamaV2{norm}"
    assert merger.pre_layernorm.weight is not None


def test_a_template_without_images_makes_a_load_without_eyes(
    tmp_path: Path, backend: Any
) -> None:
    info = write_vision(tmp_path / "m", "pixtral")
    (tmp_path / "m" / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    from neuron.models.inspect import inspect_model

    blind = inspect_model(info.path, "m")
    assert blind.vision is None
    assert load(backend, spec_of(blind)).eyes is None


def test_a_load_given_up_in_the_tower_leaves_nothing(
    tmp_path: Path, backend: Any
) -> None:
    from neuron.engines.base import LoadCancelledError

    info = write_vision(tmp_path / "m", "qwen2-vl")
    stages: list[str] = []
    vram = CpuMemory([1 << 30])
    with pytest.raises(LoadCancelledError):
        load(
            backend,
            spec_of(info),
            progress=lambda stage, *_: stages.append(stage),
            cancelled=lambda: "vision" in stages,
            vram=vram,
        )
    assert stages[-1] == "vision"
    assert vram.given_back


def test_the_tower_may_be_too_much(tmp_path: Path, backend: Any) -> None:
    info = write_vision(tmp_path / "m", "mistral3")
    [need] = requirements_of(spec_of(info), Levers()).on_one().needs
    room = need.total - need.parts["vision"] // 2
    with pytest.raises(EngineError) as raised:
        load(backend, spec_of(info), vram=CpuMemory([room]))
    assert raised.value.code == "out_of_memory"


def test_every_family_is_one_that_the_engine_supports(tmp_path: Path) -> None:
    from neuron.engines.exllamav2.memory.support import unsupported_reason

    for name in FAMILIES:
        info = write_vision(tmp_path / name, name)
        assert unsupported_reason(info) is None
        assert Description.of(info).info.vision is not None
        (info.path / "preprocessor_config.json").unlink()
        assert "preprocessor_config.json is missing" in str(unsupported_reason(info))


def test_a_towers_base_of_positions_is_found_in_either_spelling() -> None:
    spelled = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e3}}
    assert library_vision({"vision_config": spelled})["vision_config"] == {
        "rope_theta": 5e3,
        **spelled,
    }
