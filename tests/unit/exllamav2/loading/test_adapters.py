"""LoRA adapters on a loaded model, and those that are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.base import EngineError
from neuron.exl2 import open_model
from neuron.protocol.types import LoadOptions
from tests.support import cuda_stack
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import (
    TIMEOUT,
    TINY,
    copied,
    info_of,
    load,
    spec_of,
)

pytestmark = TIMEOUT


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
    path = copied(folder, tmp_path / "granite")
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
