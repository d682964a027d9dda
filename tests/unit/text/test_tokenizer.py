"""The tokenizer's own files decide."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from neuron.models.bundled import bundled_root
from neuron.text.tokenizer import TextTokenizer, TokenizerError

MODEL = bundled_root() / "tinystories-15m"


def copy_with(
    folder: Path, changes: dict[str, object], without: str = ""
) -> TextTokenizer:
    shutil.copy(MODEL / "tokenizer.json", folder)
    config = json.loads((MODEL / "tokenizer_config.json").read_text()) | changes
    config.pop(without, None)
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


def test_old_models_name_their_special_tokens_in_a_file_of_its_own(
    tmp_path: Path,
) -> None:
    tokens = {"bos_token": "</s>", "eos_token": {"content": "<s>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens))
    old = copy_with(tmp_path, {"bos_token": "<s>"}, without="added_tokens_decoder")
    assert old.special_tokens["bos_token"] == "</s>"
    assert old.special_tokens["eos_token"] == "<s>"
    new = copy_with(tmp_path, {"bos_token": "<s>", "added_tokens_decoder": {}})
    assert new.special_tokens["bos_token"] == "<s>"


def test_special_and_added_tokens_are_found_wherever_they_stand(
    fallback: TextTokenizer, byte_level: TextTokenizer
) -> None:
    end = byte_level.added_tokens["<|end|>"]
    assert byte_level.encode("x<|end|>y", add_bos=False).count(end) == 1
    assert fallback.encode("x</s>y", add_bos=False).count(2) == 1


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁")))
def test_bytes_make_up_for_what_the_vocabulary_lacks(
    text: str, fallback: TextTokenizer, byte_level: TextTokenizer
) -> None:
    for tokenizer in (fallback, byte_level):
        ids = tokenizer.encode("a" + text, add_bos=False)
        if not any(tokenizer.is_silent(token_id) for token_id in ids):
            assert tokenizer.decode(ids) == "a" + text


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        TextTokenizer.load(tmp_path)
    shutil.copy(MODEL / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match="is not a JSON object"):
        TextTokenizer.load(tmp_path)
