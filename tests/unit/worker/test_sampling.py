"""Request over model over neutral."""

import json
import logging
from pathlib import Path

import pytest

from neuron.engines.base import SamplingParams
from neuron.worker.sampling import model_defaults, resolve
from neuron.worker.schema import CompletionBody


def body(**fields: object) -> CompletionBody:
    return CompletionBody.model_validate({"model": "m", "prompt": "x", **fields})


def test_neutral_where_nobody_says_anything() -> None:
    assert resolve(body(), {}) == SamplingParams()


def test_the_request_wins_over_the_model() -> None:
    params = resolve(body(top_p=0.5, seed=7), {"top_p": 0.9, "temperature": 0.6})
    assert (params.top_p, params.temperature, params.seed) == (0.5, 0.6, 7)


def test_minus_one_is_all() -> None:
    assert resolve(body(top_k=-1), {"top_k": 40}).top_k == 0


def test_bias_keys_are_token_ids() -> None:
    assert dict(resolve(body(logit_bias={"5": 2}), {}).logit_bias) == {5: 2.0}


def test_the_models_own_are_read_and_bad_ones_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"temperature": 0.6, "top_k": 20, "top_p": 7, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        assert model_defaults(tmp_path) == {"temperature": 0.6, "top_k": 20}
    assert "top_p" in caplog.text


def test_no_file_is_no_defaults(tmp_path: Path) -> None:
    assert model_defaults(tmp_path) == {}
