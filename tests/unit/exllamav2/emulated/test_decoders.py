"""Every architecture's decoder computes what transformers does, in either format.

Decode steps go through other kernels than prompts, and are held against prompts in
`test_agreement`.
"""

from pathlib import Path

import pytest

from tests.goldens.decoders import decoders, dense, packed
from tests.goldens.tiny_models import write_folder
from tests.unit.exllamav2 import hollow
from tests.unit.exllamav2.emulated.support import TIMEOUT, running
from tests.unit.reference.support import generate, request

pytestmark = TIMEOUT

MEAN, MOST = 0.006, 0.03
"""Nats; measured are at most 0.002 and 0.01."""


@pytest.mark.parametrize("kind", ["exl2", "fp16"])
@pytest.mark.parametrize("name", decoders())
def test_log_probabilities_are_those_of_transformers(
    tmp_path: Path, name: str, kind: str
) -> None:
    decoder = decoders()[name]
    write = packed if kind == "exl2" else dense
    contents = write(decoder.config, decoder.shapes)
    folder = write_folder(tmp_path / "m", dict(decoder.config), contents)
    hollow.with_the_bundled_tokenizer(folder)
    with running(folder, slots=2, max_seq_len=256) as engine:
        wanted = request("a", decoder.prompt, 1, prompt_logprobs=0)
        output = generate(engine, wanted)["a"]
    assert output.error is None
    pairs = zip(output.scores, decoder.chosen, strict=True)
    errors = [abs(score.chosen - chosen) for score, chosen in pairs]
    assert sum(errors) / len(errors) < MEAN
    assert max(errors) < MOST
