"""The library's own modules, loaded on the CPU through our staging."""

import gc
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from neuron.engines.base import EngineError, LoadCancelledError, LoadSpec
from neuron.exl2 import open_model
from neuron.models.bundled import bundled_root
from neuron.models.info import ModelInfo
from neuron.models.inspect import inspect_model
from neuron.protocol.types import LoadOptions
from tests.support import cuda_stack
from tests.support.synthetic_model import ModelShape, write_synthetic
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import CpuMemory, Handles, library_on_the_cpu

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

GIB: Final = 1 << 30
TINY: Final = ModelShape(
    hidden=256, intermediate=544, layers=2, heads=8, kv_heads=2, head_dim=32,
    vocab=8704, context=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_synthetic(path, TINY)
    return path


@pytest.fixture
def library() -> Iterator[tuple[Any, Handles]]:
    with library_on_the_cpu() as found:
        yield found


def spec_of(info: ModelInfo, **changes: Any) -> LoadSpec:
    spec = LoadSpec(
        info, max_seq_len=256, slots=4, cache_mode="fp16", cache_tokens=512,
        devices=(0,),
    )  # fmt: skip
    return replace(spec, **changes)


def load(backend: Any, spec: LoadSpec, **changes: Any) -> Any:
    from neuron.engines.exllamav2.levers import Levers
    from neuron.engines.exllamav2.loading.load import load_model

    settings: dict[str, Any] = {
        "progress": lambda *_: None,
        "cancelled": lambda: False,
        "levers": Levers(),
        "vram": CpuMemory([GIB] * len(spec.devices)),
    }
    return load_model(backend, spec, **settings | changes)


def info_of(folder: Path) -> ModelInfo:
    return inspect_model(folder, folder.name)


def tensors_of(model: Any) -> dict[str, Any]:
    """Every tensor that the library's modules keep."""
    found: dict[str, Any] = {}
    for key, module in model.modules_dict.items():
        for name in ("weight", "bias", "layernorm", "embedding", "linear"):
            part = getattr(module, name, None)
            if isinstance(part, torch.Tensor):
                found[f"{key}.{name}"] = part
            elif part is not None and hasattr(part, "weight"):
                found[f"{key}.{name}.weight"] = part.weight
        for name, tensor in (getattr(module, "q_tensors", None) or {}).items():
            found[f"{key}.{name}"] = tensor
    return found


def as_the_library_loads(backend: Any, folder: Path) -> dict[str, Any]:
    """The same, by the library's own `load` alone."""
    config = backend.exllamav2.ExLlamaV2Config(str(folder))
    model = backend.exllamav2.ExLlamaV2(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", lambda: None)
        model.load()
    return tensors_of(model)


@pytest.mark.parametrize("name", ["tiny", "bundled"])
def test_tensors_are_those_that_the_library_loads(
    folder: Path, library: tuple[Any, Handles], name: str
) -> None:
    backend, handles = library
    path = folder if name == "tiny" else bundled_root() / "tinystories-15m"
    expected = as_the_library_loads(backend, path)
    made = handles.counts
    loaded = load(backend, spec_of(info_of(path)))
    found = tensors_of(loaded.model)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key
    assert handles.counts == made + made


@pytest.mark.parametrize("kind", ["gptq", "fp16"])
def test_other_formats(tmp_path: Path, library: tuple[Any, Handles], kind: str) -> None:
    backend, handles = library
    info = hollow.write_llama(tmp_path / "m", kind=kind)
    hollow.with_the_bundled_tokenizer(info.path)
    loaded = load(backend, spec_of(info))
    assert handles.counts["q_matrix"] == (21 if kind == "gptq" else 0)
    linears = [t for k, t in tensors_of(loaded.model).items() if "proj" in k]
    assert linears
    if kind == "fp16":
        assert {t.dtype for t in linears} == {torch.float16}
        assert loaded.model.device_context[0].scratch is None


def test_bytes_are_those_of_the_plan(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    loaded = load(library[0], spec_of(info_of(folder)))
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors_of(loaded.model).values()
    }
    planned = loaded.requirements.model.modules
    arena = sum(module.arena_bytes for module in planned)
    loose = sum(module.loose_bytes for module in planned)
    largest = max(storages.values())
    # Orders of rows wait to be made short, and are no part of the block.
    assert 0 <= arena - largest <= 512 * len(storages)
    rest = sum(storages.values()) - largest
    assert 0 <= loose - rest <= 512 * len(storages)


@pytest.mark.parametrize(
    ("mode", "tensors"), [("fp16", 2), ("q8", 4), ("q6", 4), ("q4", 4)]
)
def test_caches_are_those_of_the_plan(
    folder: Path, library: tuple[Any, Handles], mode: str, tensors: int
) -> None:
    from neuron.engines.exllamav2.memory.cache_modes import CACHE_MODES

    loaded = load(library[0], spec_of(info_of(folder), cache_mode=mode))
    cache = loaded.cache
    held = cache.all_tensors()
    tokens = 512 + 256  # recorded decode steps have a page for themselves
    assert cache.max_seq_len == tokens
    assert len(held) == tensors * TINY.layers
    planned = CACHE_MODES[mode].tensors(tokens, TINY.kv_heads, TINY.head_dim)
    assert sum(t.nbytes for t in held) == TINY.layers * sum(planned)
    shared = [t for pair in getattr(cache, "temp_tensors", {}).values() for t in pair]
    planned = CACHE_MODES[mode].temporaries(tokens, TINY.kv_heads, TINY.head_dim)
    assert [t.nbytes for t in shared] == list(planned)


def test_progress_is_told_in_bytes_after_every_tensor(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    told: list[tuple[str, int, int]] = []
    load(library[0], spec_of(info_of(folder)), progress=lambda *call: told.append(call))
    weights = [(done, total) for stage, done, total in told if stage == "weights"]
    assert [done for done, _ in weights] == sorted({done for done, _ in weights})
    assert {total for _, total in weights} == {info_of(folder).weight_bytes}
    assert weights[-1][0] == weights[-1][1]
    assert told[-1] == ("cache", 2, 2)


def _live_bytes() -> int:
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if issubclass(type(tensor), torch.Tensor) and tensor.device.type == "cpu"
    }
    return sum(storages.values())


@pytest.mark.parametrize("after", [0, 1, 20, 60])
def test_cancelled_load_leaves_nothing(
    folder: Path, library: tuple[Any, Handles], after: int
) -> None:
    backend, handles = library
    before = _live_bytes()
    told: list[int] = []
    memory = CpuMemory([GIB])
    with pytest.raises(LoadCancelledError):
        load(
            backend, spec_of(info_of(folder)), vram=memory,
            progress=lambda *_: told.append(1),
            cancelled=lambda: len(told) >= after,
        )  # fmt: skip
    assert len(told) == after
    assert not handles.living
    assert memory.given_back
    assert _live_bytes() - before < 1 << 20


def test_file_that_became_shorter_since_it_was_planned(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    info = info_of(_copied(folder, tmp_path / "copy"))
    weights = next(info.path.glob("*.safetensors"))
    with weights.open("r+b") as stream:
        stream.truncate(weights.stat().st_size // 2)
    with pytest.raises(EngineError, match="truncated") as caught:
        load(library[0], spec_of(info))
    assert caught.value.param == "model"


@pytest.mark.parametrize("failing", ["wait", "_fill"])
def test_failure_on_the_way_leaves_nothing(
    folder: Path, library: tuple[Any, Handles], monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:  # fmt: skip
    from neuron.engines.exllamav2.loading.staging import Staging

    backend, handles = library
    before = _live_bytes()
    calls = []
    theirs = getattr(Staging, failing)

    def fail(*arguments: Any) -> Any:
        calls.append(failing)
        if len(calls) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return theirs(*arguments)

    monkeypatch.setattr(Staging, failing, fail)
    with pytest.raises(EngineError) as caught:
        load(backend, spec_of(info_of(folder)))
    expected = "out_of_memory" if failing == "wait" else "load_failed"
    assert caught.value.code == expected
    assert "out of memory" in str(caught.value)
    assert not handles.living
    assert _live_bytes() - before < 1 << 20


def test_failure_is_told_where_nothing_can_be_freed_after_it(
    folder: Path, library: tuple[Any, Handles], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuron.engines.exllamav2.loading.staging import Staging

    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    memory = CpuMemory([GIB])

    def fail(*_: object) -> None:
        monkeypatch.setattr(memory, "give_back", fail)
        raise lost

    monkeypatch.setattr(Staging, "wait", fail)
    with pytest.raises(EngineError, match="illegal memory access") as caught:
        load(library[0], spec_of(info_of(folder)), vram=memory)
    assert caught.value.code == "load_failed"


def _copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_load_that_does_not_fit_is_refused_in_numbers(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    backend, handles = library
    with pytest.raises(EngineError, match=r"needs \d+ MiB .* free are 4 MiB") as caught:
        load(backend, spec_of(info_of(folder)), vram=CpuMemory([100 << 20]))
    assert (caught.value.code, caught.value.retryable) == ("out_of_memory", True)
    assert not handles.living


def test_freed_model_leaves_nothing(folder: Path, library: tuple[Any, Handles]) -> None:
    from neuron.engines.exllamav2.loading.load import free

    backend, handles = library
    before = _live_bytes()
    loaded = load(backend, spec_of(info_of(folder)))
    assert _live_bytes() - before > info_of(folder).weight_bytes
    assert free(loaded) == 0  # of the stand-in's devices
    assert not handles.living
    assert _live_bytes() - before < 1 << 20


def test_settings_that_the_library_must_have(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    loaded = load(library[0], spec_of(info_of(folder), slots=40))
    config = loaded.config
    assert config.no_sdpa
    assert (config.max_batch_size, config.max_seq_len) == (1, 256)
    assert config.max_input_len == loaded.limits.max_input == 256
    assert config.max_output_len == 40
    head = TINY.vocab * TINY.hidden
    assert config.max_dq_size >= head  # 40 rows dequantize it


def test_layers_go_to_their_devices(folder: Path, library: tuple[Any, Handles]) -> None:
    from neuron.engines.exllamav2.loading.load import STARTING_BYTES

    spec = spec_of(info_of(folder), devices=(0, 1), cache_tokens=1 << 17)
    whole = load(library[0], spec).placed.needs[0].total
    almost = whole + STARTING_BYTES - (1 << 20)
    loaded = load(library[0], spec, vram=CpuMemory([almost, GIB]))
    places = loaded.placed.layers
    assert set(places) == {0, 1}
    modules = loaded.model.modules
    assert [m.device_idx for m in modules[1:]] == [
        *(place for place in places[:-1] for _ in range(2)), places[-1], places[-1]
    ]  # fmt: skip


def test_draft_is_loaded_beside_its_model(
    folder: Path, library: tuple[Any, Handles]
) -> None:
    info = info_of(folder)
    options = LoadOptions(draft="d", draft_tokens=3, rope_scale=2)
    loaded = load(library[0], spec_of(info, options=options, draft=info))
    assert loaded.draft is not None
    assert loaded.draft.model is not loaded.model
    assert loaded.draft.cache.max_seq_len == loaded.cache.max_seq_len
    assert loaded.draft.config.max_seq_len == loaded.config.max_seq_len
    assert loaded.limits.query_length == 4
    scales = loaded.config.scale_pos_emb, loaded.draft.config.scale_pos_emb
    assert scales == (2, 1)


def test_draft_with_other_tokens_is_refused(
    folder: Path, library: tuple[Any, Handles], tmp_path: Path
) -> None:
    """Even where the plan was made before the folder changed."""
    other = shutil.copytree(folder, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first = min(vocabulary, key=vocabulary.get)
    vocabulary["elsewhere"] = vocabulary.pop(first)
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    options = LoadOptions(draft="other")
    spec = spec_of(info_of(folder), options=options, draft=info_of(other))
    with pytest.raises(EngineError, match="token 0 is 'elsewhere' for 'other'") as no:
        load(library[0], spec)
    assert no.value.param == "draft"


def _adapter(folder: Path, rank: int = 4, **settings: Any) -> dict[str, Any]:
    """A PEFT folder for every linear of layer 1; returns its matrices."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    tensors = {}
    for key, size in TINY.linears(1):
        name = f"base_model.model.{key}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, size.in_features)
        tensors[f"{name}.lora_B.weight"] = torch.randn(size.out_features, rank)
    header, end = {}, 0
    for name, tensor in tensors.items():
        offsets = [end, end + tensor.nbytes]
        shape = list(tensor.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    data = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
    weights = len(text).to_bytes(8, "little") + text + data
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return tensors


def test_adapters_get_the_order_of_the_packed_mlp(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    matrices = _adapter(tmp_path / "lora")
    adapter = {"path": str(tmp_path / "lora"), "scale": 0.5}
    options = LoadOptions.model_validate({"loras": [adapter]})
    loaded = load(library[0], spec_of(info_of(folder), options=options))
    [lora] = loaded.loras
    down = "model.layers.1.mlp.down_proj"
    order = torch.from_numpy(open_model(folder).read(f"{down}.q_invperm").copy())
    order = torch.argsort(order)
    for key, _ in TINY.linears(1):
        module = loaded.model.modules_dict[key]
        a = matrices[f"base_model.model.{key}.lora_A.weight"].T.half()
        b = (matrices[f"base_model.model.{key}.lora_B.weight"].T * 0.5 * 8 / 4).half()
        if key.endswith(("gate_proj", "up_proj")):
            b = b[:, order]
        if key == down:
            a = a[order]
        torch.testing.assert_close(module.lora_a_tensors[lora], a)
        torch.testing.assert_close(module.lora_b_tensors[lora], b)
        assert module.lora_b_tensors[lora].is_contiguous()
    # The kernels were told of these very tensors, and last of all.
    mlp = loaded.model.modules_dict[down]
    last = [found for found in library[1].loras if found][-7:]
    assert any(tensor is mlp.lora_a_tensors[lora] for each in last
               for tensor in each.values())  # fmt: skip


def test_adapters_are_scaled_as_the_layers_that_they_add_to(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    matrices = _adapter(tmp_path / "lora")
    path = _copied(folder, tmp_path / "granite")
    config = json.loads((path / "config.json").read_text())
    config |= {"architectures": ["GraniteForCausalLM"], "residual_multiplier": 0.25}
    (path / "config.json").write_text(json.dumps(config))
    options = LoadOptions.model_validate({"loras": [{"path": str(tmp_path / "lora")}]})
    loaded = load(library[0], spec_of(info_of(path), options=options))
    [lora] = loaded.loras
    for key, factor in (("o_proj", 0.25), ("q_proj", 1)):
        name = f"model.layers.1.self_attn.{key}"
        b = matrices[f"base_model.model.{name}.lora_B.weight"].T * 8 / 4 * factor
        found = loaded.model.modules_dict[name].lora_b_tensors[lora]
        torch.testing.assert_close(found, b.half(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "does not apply an adapter's use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"bias": "all"}, "bias 'all' is not 'none'"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"lora_alpha": None}, "lora_alpha None is no number"),
    ],
)
def test_adapters_that_the_library_would_not_apply_right(
    folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    from neuron.engines.exllamav2.memory.adapters import read_adapters
    from neuron.engines.exllamav2.memory.description import Description
    from neuron.protocol.types import LoraAdapter

    model = Description.of(info_of(folder))
    _adapter(tmp_path / "good")
    [adapter] = read_adapters(model, [LoraAdapter(path=str(tmp_path / "good"))])
    assert adapter.rank == 4
    assert adapter.layer_bytes.keys() == {1}
    _adapter(tmp_path / "bad", **change)
    with pytest.raises(EngineError, match=said) as caught:
        read_adapters(model, [LoraAdapter(path=str(tmp_path / "bad"))])
    assert caught.value.param == "loras"


def test_adapters_for_another_model(folder: Path, tmp_path: Path) -> None:
    from neuron.engines.exllamav2.memory.adapters import read_adapters
    from neuron.engines.exllamav2.memory.description import Description
    from neuron.protocol.types import LoraAdapter

    _adapter(tmp_path / "lora")
    wanted = [LoraAdapter(path=str(tmp_path / "lora"))]
    wider = hollow.write_llama(tmp_path / "w", replace(TINY, intermediate=576))
    with pytest.raises(EngineError, match="is for 544 features"):
        read_adapters(Description.of(wider), wanted)
    shallow = hollow.write_llama(tmp_path / "s", replace(TINY, layers=1))
    with pytest.raises(EngineError, match="no layer for tensor"):
        read_adapters(Description.of(shallow), wanted)
    gemma = hollow.write_llama(
        tmp_path / "g", TINY, architectures=["Gemma2ForCausalLM"]
    )
    with pytest.raises(EngineError, match="no adapters to Gemma2ForCausalLM"):
        read_adapters(Description.of(gemma), wanted)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (LoadOptions(rope_scale=2), {"scale_pos_emb": 2}),
        (LoadOptions(rope_alpha=2.5), {"scale_alpha_value": 2.5}),
        (LoadOptions(yarn_factor=4), {"alt_rope_method": "yarn"}),
    ],
)
def test_context_extension(
    folder: Path, library: tuple[Any, Handles], options: LoadOptions,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    loaded = load(
        library[0], spec_of(info_of(folder), options=options, max_seq_len=1024)
    )
    assert {name: getattr(loaded.config, name) for name in changes} == changes
    context = loaded.model.device_context[0]
    angles = torch.atan2(context.sin[0][0, 0].float(), context.cos[0][0, 0].float())
    half = TINY.head_dim // 2
    exponents = torch.arange(half) / half
    base = TINY.rope_theta * (options.rope_alpha or 1) ** (
        TINY.head_dim / (TINY.head_dim - 2)
    )
    plain = base**-exponents / (options.rope_scale or 1)
    if options.yarn_factor:
        # The fastest pairs are kept, the slowest interpolated.
        kept, stretched = angles[1, 0], angles[1, half - 1]
        assert kept == pytest.approx(1, abs=2e-3)
        assert stretched == pytest.approx(plain[-1] / 4, rel=0.02)
        return
    torch.testing.assert_close(angles[1, :half], plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("max_seq_len", [1024, 2048])
def test_yarn_does_not_depend_on_how_long_the_loaded_context_is(
    folder: Path, library: tuple[Any, Handles], max_seq_len: int
) -> None:
    """The library's own takes `max_seq_len` for the context it was trained on."""
    from neuron.engines.reference.rope import parse_rope

    options = LoadOptions(yarn_factor=4)
    loaded = load(
        library[0],
        spec_of(info_of(folder), options=options, max_seq_len=max_seq_len),
    )
    scaling = {
        "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 512,
    }  # fmt: skip
    rope = parse_rope({"rope_theta": 5e5, "rope_scaling": scaling}, 512)
    table = torch.from_numpy(rope.table(max_seq_len, TINY.head_dim))
    sin = loaded.model.device_context[0].sin[0][0, 0, :, : TINY.head_dim // 2]
    torch.testing.assert_close(sin.float(), table.imag, rtol=0, atol=1e-3)


def test_config_in_the_new_spelling(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    """The library alone would take 10000 for the base of positions, and say nothing."""
    copy = _copied(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    config["architectures"] = ["LlamaForCausalLM"]
    (copy / "config.json").write_text(json.dumps(config))
    loaded = load(library[0], spec_of(info_of(copy)))
    assert loaded.config.rotary_embedding_base == theta


def test_what_a_load_took_is_remembered_once_it_is_warm(
    folder: Path, tmp_path: Path, library: tuple[Any, Handles],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from neuron.engines.exllamav2.host import devices
    from neuron.engines.exllamav2.loading.load import settle
    from neuron.engines.exllamav2.loading.vram import DeviceUse, MeasuredMemory
    from neuron.engines.exllamav2.memory.measured import MeasurementFile

    loaded = load(library[0], spec_of(info_of(folder)))
    [need] = loaded.placed.needs
    took = need.total + (450 << 20)
    cold = MeasuredMemory((DeviceUse(0, took, need.passing // 4, 1),))
    warm = MeasuredMemory((DeviceUse(0, took, need.passing, 1),))
    monkeypatch.setattr(devices, "names", lambda: {0: "GPU"})
    at_load = loaded.memory
    for memory, kept in ((cold, None), (warm, [took])):
        loaded.memory = at_load
        monkeypatch.setattr(loaded.vram, "measure", lambda memory=memory: memory)
        assert settle(loaded, tmp_path).total == took
        assert loaded.memory is memory
        found = MeasurementFile(tmp_path).read()
        assert found.load(loaded.requirements.key(["GPU"]), 1) == kept
    assert MeasurementFile(tmp_path).read().context("GPU") == 450 << 20


def test_load_without_a_gpu_is_refused_before_anything_is_hidden(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuron.engines.exllamav2.loading.load import prepare_devices

    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    with pytest.raises(EngineError, match="names no GPU"):
        prepare_devices(spec_of(info_of(folder), devices=()))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    prepare_devices(spec_of(info_of(folder), devices=(2, 1)))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,1"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(EngineError, match="uses GPUs 2,1 already"):
        prepare_devices(spec_of(info_of(folder), devices=(0,)))
