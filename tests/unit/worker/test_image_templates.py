"""Images in the chat templates that vision models were released with."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from neuron.models.image_sizing import LongestEdge
from neuron.models.vision import FAMILIES, VisionInfo
from neuron.protocol.errors import ApiError
from neuron.text.chat import ChatTemplate
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.images import Conversation, ImageReader, take_images
from tests.goldens.chat_cases import SPECIAL_TOKENS, templates
from tests.support.pictures import noise, part_of
from tests.support.wheels import UnavailableError

_QWEN = "Qwen2VLForConditionalGeneration"
_MISTRAL = "Mistral3ForConditionalGeneration"
_GEMMA = "Gemma3ForConditionalGeneration"
RELEASED = [
    ("Qwen-Qwen2.5-VL-7B-Instruct", "Qwen2_5_VLForConditionalGeneration"),
    ("Qwen-QVQ-72B-Preview", _QWEN),
    ("mistralai-Mistral-Small-3.1-24B-Instruct-2503", _MISTRAL),
    ("Mistral-Small-3.2-24B-Instruct-2506", _MISTRAL),
    ("nvidia-Nemotron-Content-Safety-Reasoning-4B", _GEMMA),
    ("typhoon-ai-typhoon2.1-gemma3-4b", _GEMMA),
]
"""Where a file is named for another model, that one ships the family's template."""
AROUND = {
    _QWEN: ("<|vision_start|>", "<|vision_end|>"),
    _GEMMA: ("\n\n<start_of_image>", "<end_of_image>\n\n"),
}
"""What stands before and after each image."""


@pytest.fixture(scope="module")
def released() -> dict[str, str]:
    try:
        return templates()
    except UnavailableError as error:
        pytest.skip(str(error))


def _says(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": [
        part_of(noise(32, 64)), _says("one"), part_of(noise(32, 32)), _says("two"),
    ]},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": [_says("four"), part_of(noise(64, 32))]},
]  # fmt: skip


def reader_of(architecture: str) -> ImageReader:
    """With images cut into squares of 32 pixels, and a tokenizer that knows no more
    than what is special about them."""
    vision = VisionInfo(FAMILIES[architecture].syntax, LongestEdge(64, 16, 2), 3)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens(
        [AddedToken(token, special=True) for token in vision.syntax.tokens]
    )
    reader = ImageReader.of(vision, TextTokenizer(tokenizer, {}))
    assert reader is not None
    return reader


def rendered(source: str, reader: ImageReader) -> tuple[str, Conversation]:
    conversation = take_images(MESSAGES, reader)
    text = ChatTemplate(source, SPECIAL_TOKENS).render(conversation.messages)
    return reader.spell(text, conversation), conversation


@pytest.mark.parametrize(("name", "architecture"), RELEASED)
def test_each_image_is_where_it_was_said(
    released: dict[str, str], name: str, architecture: str
) -> None:
    reader = reader_of(architecture)
    text, _ = rendered(released[name], reader)
    syntax = FAMILIES[architecture].syntax
    family = _QWEN if architecture.startswith("Qwen") else architecture
    before, after = AROUND.get(family, ("", ""))
    one = f"{before}{syntax.token}{after}"
    places = [text.index(word) for word in (f"{one}one", f"{one}two", "three")]
    assert places == sorted(places)
    assert f"four{one}" in text
    assert text.count(syntax.token) == 3


@pytest.mark.parametrize(("name", "architecture"), RELEASED)
def test_each_image_has_its_own_number_of_tokens(
    released: dict[str, str], name: str, architecture: str
) -> None:
    reader = reader_of(architecture)
    text, conversation = rendered(released[name], reader)
    token = reader._token
    ids, pictures = reader.place(
        [token] * text.count(FAMILIES[architecture].syntax.token), conversation
    )
    assert [len(picture.positions) for picture in pictures] == [2, 1, 2]
    assert [at for p in pictures for at in p.positions] == [
        at for at, each in enumerate(ids) if each == token
    ]
    # Pixtral's rows have ends: two of one, one of one, one of two.
    assert len(ids) == 5 + (4 if architecture == _MISTRAL else 0)


def test_a_template_of_text_alone_shows_no_image() -> None:
    source = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    reader = reader_of(_QWEN)
    text, conversation = rendered(source, reader)
    with pytest.raises(ApiError) as raised:
        reader.place([reader._token] * text.count("<|image_pad|>"), conversation)
    assert raised.value.status == 422
    assert raised.value.param == "messages[0].content[0]"
    assert "0 of 3 images" in str(raised.value)
