"""Model folders that are not quantized, and leave no trace of the attempt."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuron.exl2 import FormatError, open_model
from neuron.exl2.convert import ConvertError, ConvertOptions, LayerReport, convert
from tests.unit.exl2.support import save, tiny_model

OPTIONS = ConvertOptions(bits=4.9, head_bits=6)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "source")
    return tmp_path / "source"


def edited(source: Path, **changes: object) -> None:
    config = json.loads((source / "config.json").read_text()) | changes
    (source / "config.json").write_text(json.dumps(config))


def replaced(source: Path, name: str, tensor: "np.ndarray | None") -> None:
    """Put another tensor into the source, or take one out."""
    model = open_model(source)
    tensors = {n: np.array(model.read(n)) for n in model.specs if n != name}
    if tensor is not None:
        tensors[name] = tensor
    save(source / "model.safetensors", tensors)


Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("spoil", "options", "error", "reason"),
    [
        (
            lambda source: edited(source, architectures=["GPT2LMHeadModel"]),
            OPTIONS,
            ConvertError,
            "architecture 'GPT2LMHeadModel' is not supported; these are: Llama",
        ),
        (
            lambda source: edited(source, architectures=None),
            OPTIONS,
            ConvertError,
            r"architecture \(none\) is not supported",
        ),
        (
            lambda source: edited(source, quantization_config={"quant_method": "gptq"}),
            OPTIONS,
            ConvertError,
            "quantized already",
        ),
        (
            lambda source: edited(source, num_hidden_layers="2"),
            OPTIONS,
            FormatError,
            "config.json: num_hidden_layers must be",
        ),
        (
            lambda source: edited(source, tie_word_embeddings=1),
            OPTIONS,
            FormatError,
            "config.json: tie_word_embeddings must be",
        ),
        (
            lambda source: edited(source, num_hidden_layers=1),
            OPTIONS,
            ConvertError,
            r"'model\.layers\.1\.\S+' has no place",
        ),
        (
            lambda source: edited(source, num_hidden_layers=3),
            OPTIONS,
            FormatError,
            r"'model\.layers\.2\.\S+': is missing",
        ),
        (
            lambda source: edited(source, num_hidden_layers=10**12),
            OPTIONS,
            FormatError,
            "config.json: num_hidden_layers must be",
        ),
        (
            lambda source: replaced(source, "model.norm.weight", None),
            OPTIONS,
            FormatError,
            r"model\.norm\.weight': is missing",
        ),
        (
            lambda source: replaced(source, "model.norm.weight", np.ones(64, np.int32)),
            OPTIONS,
            FormatError,
            r"norm\.weight': is I32, must be a float",
        ),
        (
            lambda source: replaced(
                source, Q_PROJ.replace("weight", "bias"), np.ones(63, np.float16)
            ),
            OPTIONS,
            FormatError,
            r"q_proj\.bias': is \[63\], must be \[64\]",
        ),
        (
            lambda source: replaced(source, "lm_head.weight", None),
            OPTIONS,
            FormatError,
            r"lm_head\.weight': is missing",
        ),
        (
            lambda source: replaced(source, Q_PROJ, np.zeros((64, 48), np.float16)),
            OPTIONS,
            ConvertError,
            "48 input features",
        ),
        (
            lambda source: replaced(source, Q_PROJ, np.zeros((64, 64), np.int32)),
            OPTIONS,
            FormatError,
            r"q_proj\.weight': is I32",
        ),
        (
            lambda source: replaced(
                source, Q_PROJ, np.full((64, 64), np.nan, np.float16)
            ),
            OPTIONS,
            FormatError,
            r"q_proj\.weight': .* beyond float16",
        ),
        (
            lambda source: replaced(
                source, Q_PROJ, np.full((64, 64), 1e30, np.float32)
            ),
            OPTIONS,
            FormatError,
            r"q_proj\.weight': .* beyond float16",
        ),
        (
            lambda source: replaced(
                source, "model.norm.weight", np.full(64, 1e9, np.float32)
            ),
            OPTIONS,
            FormatError,
            r"norm\.weight': .* beyond float16",
        ),
        (lambda source: None, ConvertOptions(2.0), ConvertError, "cannot be reached"),
        (lambda source: None, ConvertOptions(9.0), ConvertError, "within 2 and 8"),
        (lambda source: None, ConvertOptions(4.5, 7), ConvertError, "head_bits"),
        (
            lambda source: None,
            ConvertOptions(4.5, group_rows=48),
            ConvertError,
            "groups of 48 rows",
        ),
        (
            lambda source: (source / "config.json").unlink(),
            OPTIONS,
            FileNotFoundError,
            "config.json",
        ),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    source: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    options: ConvertOptions,
    error: type[Exception],
    reason: str,
) -> None:
    spoil(source)
    with pytest.raises(error, match=reason):
        convert(source, tmp_path / "target", options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_interruption_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    def interrupt(report: LayerReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "target", OPTIONS, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
