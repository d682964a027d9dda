"""tokenizer.json and what goes with it, from a GGUF file's metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuron.exl2.errors import shown_name
from neuron.models.gguf.metadata import Metadata
from neuron.models.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from neuron.models.gguf.vocabulary import TokenType, Vocabulary

_MODEL: Final = "tokenizer.ggml.model"
_PRE: Final = "tokenizer.ggml.pre"
_MERGES: Final = "tokenizer.ggml.merges"
_SCORES: Final = "tokenizer.ggml.scores"
_ADD_BOS: Final = "tokenizer.ggml.add_bos_token"
_ADD_EOS: Final = "tokenizer.ggml.add_eos_token"
_ADD_SPACE: Final = "tokenizer.ggml.add_space_prefix"
_CHARSMAP: Final = "tokenizer.ggml.precompiled_charsmap"
_SPACE: Final = "▁"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What describes a tokenizer, besides its vocabulary."""

    tokenizer: Json
    """tokenizer.json."""
    add_bos: bool
    add_eos: bool


def read_tokenizer(metadata: Metadata, vocabulary: Vocabulary) -> TokenizerFiles:
    """Rebuild the tokenizer.

    Raises:
        ModelError: a kind of tokenizer, or of splitting text, that is not known; or a
            key is missing or malformed.
    """
    kind = metadata.text(_MODEL)
    if kind == "gpt2":
        return _byte_level(metadata, vocabulary)
    if kind == "llama":
        return _sentence_piece(metadata, vocabulary)
    raise metadata.error(
        _MODEL, f"{shown_name(kind)} is not supported; gpt2 and llama are"
    )


def _byte_level(metadata: Metadata, vocabulary: Vocabulary) -> TokenizerFiles:
    """Byte pairs over a printable stand-in for each byte, as GPT-2 has it."""
    if _PRE not in metadata:
        raise metadata.error(
            _PRE, "is missing: how text is split is not known; convert the model anew"
        )
    name = metadata.text(_PRE)
    if name not in PRE_TOKENIZERS:
        raise metadata.error(
            _PRE,
            f"{shown_name(name)} is not supported; these are: "
            f"{', '.join(PRE_TOKENIZERS)}",
        )
    pre = PRE_TOKENIZERS[name]
    model = _bpe(
        vocabulary, list(_merges(metadata, vocabulary)), ignore_merges=pre.ignore_merges
    )
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return _files(
        metadata,
        vocabulary,
        add_bos=pre.add_bos,
        model=model,
        normalizer={"type": "NFC"} if pre.composed else None,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [*_splits(pre), byte_level],
        },
        decoder=byte_level,
    )


def _splits(pre: PreTokenizer) -> Iterator[Json]:
    for pattern in pre.patterns:
        yield {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }


def _merges(metadata: Metadata, vocabulary: Vocabulary) -> Iterator[list[str]]:
    """Pairs, best first; `left right` in the file, of which only left may begin with
    the space that separates them."""
    ids = vocabulary.ids
    for number, merge in enumerate(metadata.strings(_MERGES)):
        space = merge.find(" ", 1)
        left, right = merge[:space], merge[space + 1 :]
        if space < 0 or not {left, right, left + right} <= ids.keys():
            raise metadata.error(
                _MERGES,
                f"has no two tokens that make a third at {number}: {shown_name(merge)}",
            )
        yield [left, right]


def _sentence_piece(metadata: Metadata, vocabulary: Vocabulary) -> TokenizerFiles:
    """Pieces with scores, and bytes where there is no piece."""
    if _CHARSMAP in metadata:
        raise metadata.error(_CHARSMAP, "is not supported in a llama tokenizer")
    scores = metadata.numbers(_SCORES, len(vocabulary.tokens)).tolist()
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    if missing := sorted(bytes_ - vocabulary.ids.keys()):
        raise metadata.error(
            "tokenizer.ggml.tokens", f"lacks the byte token {missing[0]}"
        )
    prefixed = metadata.flag(_ADD_SPACE, True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prefix = {"type": "Prepend", "prepend": _SPACE}
    decoders: list[Json] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefixed:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return _files(
        metadata,
        vocabulary,
        add_bos=True,
        model=_bpe(
            vocabulary,
            merges_of_scores(vocabulary, scores),
            unk_token=vocabulary.token("unk"),
            fuse_unk=True,
            byte_fallback=True,
        ),
        normalizer={
            "type": "Sequence",
            "normalizers": [prefix, spaces] if prefixed else [spaces],
        },
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
    )


def merges_of_scores(vocabulary: Vocabulary, scores: list[float]) -> list[list[str]]:
    """Every way to make a piece of two others; pieces of high scores first, and of the
    ways to make one the one with the lowest ids."""
    whole = (TokenType.NORMAL, TokenType.USER_DEFINED)
    ids = {
        token: id_
        for token, id_ in vocabulary.ids.items()
        if vocabulary.types[id_] in whole
    }
    ranked = []
    for token, id_ in ids.items():
        for split in range(1, len(token)):
            left, right = ids.get(token[:split]), ids.get(token[split:])
            if left is not None and right is not None:
                ranked.append((-scores[id_], id_, left, right))
    ranked.sort()
    tokens = vocabulary.tokens
    return [[tokens[left], tokens[right]] for *_, left, right in ranked]


def _bpe(vocabulary: Vocabulary, merges: list[list[str]], **settings: object) -> Json:
    # Tokens with a role are in it too, else the library numbers them anew.
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": vocabulary.ids,
        "merges": merges,
    }


def _files(
    metadata: Metadata, vocabulary: Vocabulary, *, add_bos: bool, **parts: Json | None
) -> TokenizerFiles:
    add_bos = metadata.flag(_ADD_BOS, add_bos)
    add_eos = metadata.flag(_ADD_EOS, False)
    for role, wanted, key in (("bos", add_bos, _ADD_BOS), ("eos", add_eos, _ADD_EOS)):
        if wanted and role not in vocabulary.roles:
            raise metadata.error(key, f"is true, and no {role}_token_id is given")
    tokenizer: Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(),
        "post_processor": _template(
            vocabulary, ["bos"] if add_bos else [], ["eos"] if add_eos else []
        ),
    }
    return TokenizerFiles(tokenizer | parts, add_bos, add_eos)


def _template(
    vocabulary: Vocabulary, before: list[str], after: list[str]
) -> Json | None:
    """What is put around every text."""
    if not before and not after:
        return None
    used = {role: vocabulary.tokens[vocabulary.roles[role]] for role in before + after}

    def around(sequence: str, type_id: int) -> list[Json]:
        def special(role: str) -> Json:
            return {"SpecialToken": {"id": used[role], "type_id": type_id}}

        text = {"Sequence": {"id": sequence, "type_id": type_id}}
        return [*map(special, before), text, *map(special, after)]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary.roles[role]], "tokens": [token]}
            for role, token in used.items()
        },
    }


def tokenizer_config(
    metadata: Metadata, vocabulary: Vocabulary, files: TokenizerFiles, context: int
) -> Json:
    """tokenizer_config.json.

    Raises:
        ModelError: a chat template is malformed.
    """
    config: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": files.add_bos,
        "add_eos_token": files.add_eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    for role in ("bos", "eos", "unk", "pad"):
        if (token := vocabulary.token(role)) is not None:
            config[f"{role}_token"] = token
    templates = _templates(metadata)
    if list(templates) == ["default"]:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [
            {"name": name, "template": text} for name, text in templates.items()
        ]
    return config


def _templates(metadata: Metadata) -> Mapping[str, str]:
    main = "tokenizer.chat_template"
    found = {"default": metadata.text(main)} if main in metadata else {}
    for key in metadata.values:
        if key.startswith(f"{main}."):
            found[key.removeprefix(f"{main}.")] = metadata.text(key)
    return found
