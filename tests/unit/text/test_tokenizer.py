"""The tokenizer's own files decide."""

import json
import shutil
from pathlib import Path

import pytest

from neuron.models.bundled import bundled_root
from neuron.text.tokenizer import TextTokenizer, TokenizerError

MODEL = bundled_root() / "tinystories-15m"


def copy_with(folder: Path, changes: dict[str, object]) -> TextTokenizer:
    shutil.copy(MODEL / "tokenizer.json", folder)
    config = json.loads((MODEL / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return TextTokenizer.load(folder)


def test_prompts_begin_as_the_model_expects(fallback: TextTokenizer) -> None:
    ids = fallback.encode("Once", add_bos=True)
    assert ids[0] == 1
    assert ids[1:] == fallback.encode("Once", add_bos=False)
    assert fallback.encode("<s>Once", add_bos=True)[:2].count(1) == 1


def test_the_configuration_can_do_without_a_beginning(tmp_path: Path) -> None:
    tokenizer = copy_with(tmp_path, {"add_bos_token": False})
    assert 1 not in tokenizer.encode("Once", add_bos=True)


def test_without_a_word_on_it_the_post_processor_decides(tmp_path: Path) -> None:
    tokenizer = copy_with(tmp_path, {"add_bos_token": None})
    assert tokenizer.encode("Once", add_bos=True)[0] == 1


def test_special_tokens_may_be_spelt_as_objects(tmp_path: Path) -> None:
    tokenizer = copy_with(tmp_path, {"bos_token": {"content": "<s>"}})
    assert tokenizer.special_tokens["bos_token"] == "<s>"


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        TextTokenizer.load(tmp_path)
    shutil.copy(MODEL / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match="must hold a JSON object"):
        TextTokenizer.load(tmp_path)
