"""A tiny model with a context of 65,536 tokens, for clients that send long prompts.

It takes a second to write and half a megabyte; on the CPU engine it reads a prompt of
20,000 tokens in seconds. Put it among a home's models, once for a session:

    @pytest.fixture(scope="session")
    def gateway() -> Iterator[Process]:
        with temporary_home() as home:
            long_context_model(home.models)
            free = {"CORTEX_LOCAL__LISTEN": "127.0.0.1:0"}
            with running_gateway(home, environ=free) as process:
                yield process

Requests then name it `LONG_CONTEXT`. Its weights are random but for what makes it say
something that ends. A token leads to one of sixteen first words, whichever the random
attention over the whole prompt prefers; these to a word each, up to a full stop, which
leads to the end: 10 to 40 tokens in all, the same ones for the same prompt where the
temperature is 0. Where a grammar does not let it end, it closes what is open: a string
after its words, then brackets; so structured output ends as well.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from neuron.exl2.conversion_plan import ConvertOptions
from neuron.exl2.convert import quantize_into
from neuron.exl2.header import TensorSpec
from neuron.exl2.new_folder import appearing
from neuron.models.bundled import bundled_root

LONG_CONTEXT: Final = "long-context"
"""Its id, and the name of its folder."""
CONTEXT: Final = 65_536
TEMPLATE: Final = """\
{%- if tools %}{{ '<|im_start|>system\\nYou can call these functions:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\nA call looks like this:\\n<tool_call>\\n' }}
{{- '{"name": "a function", "arguments": {"parameter": "value"}}\\n</tool_call>' }}
{{- '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'tool' %}{{ '<tool_response>\\n' + message.content }}
{{- '\\n</tool_response>' }}{% else %}{{ message.content or '' }}{% endif %}
{%- for call in message.tool_calls or () %}{{ '\\n<tool_call>\\n{"name": "' }}
{{- call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

_START, _END = "<|im_start|>", "<|im_end|>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_ADDED: Final = {_START: True, _END: True, _CALL: False, _CALL_END: False}
"""Tokens beyond the bundled tokenizer's → whether they are special."""
_HIDDEN: Final = 64
_HEAD_DIM: Final = 32
_INTERMEDIATE: Final = 64
_SENTENCES: Final = 16
_WORDS: Final = (8, 38)
"""Words of the shortest sentence, and of the longest."""

# What a token's embedding says, beside a constant: which kind of token comes next.
_ANY, _LAST, _CLOSE, _FREE = 1, 2, 3, 4
"""Dimensions: a first word; a full stop; an end; those of single words."""
_SURE: Final = 20.0
"""Logit of what comes next."""
_CLOSERS: Final = {_END: 28.0, '"': 15.0, "}": 10.0, "]": 10.0, ",": 8.0}
"""Logits after what may be an end, on top of those that they have anywhere."""
_ANYWHERE: Final = {
    "}": 9.0, "]": 8.5, '"': 8.0, "1": 7.5, "{": 6.5, "[": 6.0, "t": 5.5, ",": 5.0,
    ":": 5.0, _END: 2.0,
    " ": -6.0, "\n": -6.0, "\t": -6.0, "\r": -6.0, _START: -20.0,
}  # fmt: skip
"""What is likelier than nothing where a grammar forbids all the rest; and what never
comes where anything else can."""
_ENDERS: Final = (".", "}", "]", _CALL_END, *"0123456789")
"""After these it may be over."""


def long_context_model(folder: Path) -> Path:
    """Write the model into a new folder of this one; equal bytes every time.

    Raises:
        ConvertError: it is there already.
    """
    tokenizer = _tokenizer()
    tokens = _Tokens.of(tokenizer)
    with appearing(folder / LONG_CONTEXT) as target:
        quantize_into(
            target, _Tensors(_weights(tokens)), _config(tokens),
            ConvertOptions(bits=8, head_bits=8),
        )  # fmt: skip
        _write(target / "tokenizer.json", tokenizer)
        _write(target / "tokenizer_config.json", _tokenizer_config())
        (target / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder / LONG_CONTEXT


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _tokenizer() -> dict[str, Any]:
    """The bundled model's, with the tokens of the template."""
    source = bundled_root() / "tinystories-15m" / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    first = len(tokenizer["model"]["vocab"])
    for number, (token, special) in enumerate(_ADDED.items(), start=first):
        like = tokenizer["added_tokens"][0]
        tokenizer["added_tokens"].append(
            {**like, "id": number, "content": token, "special": special}
        )
    return tokenizer


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": _END,
        "unk_token": "<unk>",
        "add_bos_token": True,
        "model_max_length": CONTEXT,
    }


def _config(tokens: "_Tokens") -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": _HEAD_DIM,
        "vocab_size": tokens.count,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": 1,
        "eos_token_id": tokens.id(_END),
    }


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The vocabulary, and the sentences to be made of it: each token of them once."""

    ids: Mapping[str, int]
    sentences: Sequence[Sequence[int]]

    @classmethod
    def of(cls, tokenizer: Mapping[str, Any]) -> "_Tokens":
        ids = dict(tokenizer["model"]["vocab"])
        ids |= {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
        rng = np.random.default_rng(7)

        def some(pattern: str, count: int) -> list[int]:
            found = [i for piece, i in ids.items() if re.fullmatch(pattern, piece)]
            return [int(i) for i in rng.permutation(found)[:count]]

        lengths = np.linspace(*_WORDS, _SENTENCES).astype(int) - 1
        words = iter(some("▁[a-z]{3,8}", lengths.sum()))
        firsts = some("[A-Z][a-z]{2,}", _SENTENCES)
        sentences = [
            [first, *(next(words) for _ in range(length))]
            for first, length in zip(firsts, lengths, strict=True)
        ]
        return cls(ids, sentences)

    @property
    def count(self) -> int:
        return len(self.ids)

    def id(self, text: str) -> int:
        """Of a token, as a piece or as a byte."""
        piece = text.replace(" ", "▁")
        return self.ids[piece if piece in self.ids else f"<0x{ord(text):02X}>"]


Floats = NDArray[np.float32]


def _weights(tokens: _Tokens) -> dict[str, Floats]:
    rng = np.random.default_rng(11)

    def random(rows: int, columns: int, deviation: float) -> Floats:
        drawn = rng.standard_normal((rows, columns), np.float32)
        return drawn * np.float32(deviation)

    layer = "model.layers.0."
    embedding, head = _vocabulary(tokens, rng)
    values, output = random(_HEAD_DIM, _HIDDEN, 0.3), random(_HIDDEN, _HEAD_DIM, 0.05)
    # Attention tells of what tokens differ in, and where no kind of token is.
    values[:, :_FREE] = output[:_FREE] = 0
    return {
        "model.embed_tokens.weight": embedding,
        f"{layer}self_attn.q_proj.weight": random(_HEAD_DIM, _HIDDEN, 0.03),
        f"{layer}self_attn.k_proj.weight": random(_HEAD_DIM, _HIDDEN, 0.03),
        f"{layer}self_attn.v_proj.weight": values,
        f"{layer}self_attn.o_proj.weight": output,
        f"{layer}mlp.gate_proj.weight": random(_INTERMEDIATE, _HIDDEN, 0.1),
        f"{layer}mlp.up_proj.weight": random(_INTERMEDIATE, _HIDDEN, 0.1),
        f"{layer}mlp.down_proj.weight": random(_HIDDEN, _INTERMEDIATE, 0.001),
        f"{layer}input_layernorm.weight": np.ones(_HIDDEN, np.float32),
        f"{layer}post_attention_layernorm.weight": np.ones(_HIDDEN, np.float32),
        "model.norm.weight": np.ones(_HIDDEN, np.float32),
        "lm_head.weight": head,
    }


def _vocabulary(tokens: _Tokens, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Embedding and head: what comes after each token, and after what each comes."""
    count = tokens.count
    codes = np.zeros((count, _HIDDEN), np.float32)
    codes[:, _FREE:] = rng.standard_normal((count, _HIDDEN - _FREE))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    leads = np.zeros_like(codes)
    leads[:, _ANY] = 1
    # Tokens alike in what they lead to differ all the same, for attention.
    leads += codes * np.float32(0.3)
    # Ties are broken, in favour of none.
    head = codes[::-1] * np.float32(0.03 * _SURE)
    for text in _ENDERS:
        leads[tokens.id(text)] = np.eye(_HIDDEN)[_CLOSE]
    # What ends every prompt leaves the choice to attention alone.
    leads[tokens.id("\n")] = np.eye(_HIDDEN)[_ANY]
    for sentence in tokens.sentences:
        head[sentence[0]] = 15 * head[sentence[0]] + _SURE * np.eye(_HIDDEN)[_ANY]
        for word, after in pairwise(sentence):
            leads[word] = codes[word]
            head[after] = _SURE * codes[word]
        leads[sentence[-1]] = np.eye(_HIDDEN)[_LAST]
    head[tokens.id(".")] = _SURE * np.eye(_HIDDEN)[_LAST]
    for text, logit in _CLOSERS.items():
        head[tokens.id(text)] = logit * np.eye(_HIDDEN)[_CLOSE]
    for text, logit in _ANYWHERE.items():
        head[tokens.id(text), 0] = logit
    leads /= np.linalg.norm(leads, axis=1, keepdims=True)
    leads[:, 0] = 1
    # The norm before the head makes of either part what half of the dimensions have.
    return leads, head / np.float32((_HIDDEN / 2) ** 0.5)


@dataclass(frozen=True, slots=True)
class _Tensors:
    """A `neuron.exl2.source.TensorSource` over what is in memory."""

    tensors: Mapping[str, Floats]
    path: Path = field(default=Path("long-context"))

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return {name: self.spec(name) for name in self.tensors}

    def spec(self, name: str) -> TensorSpec:
        tensor = self.tensors[name]
        return TensorSpec(name, "F32", tensor.shape, self.path, 0, tensor.nbytes)

    def read(self, name: str) -> NDArray[Any]:
        return self.tensors[name]
