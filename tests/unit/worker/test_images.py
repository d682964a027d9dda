"""Images in chats, from the request to what the engine is given."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from neuron.models.image_sizing import LongestEdge
from neuron.models.vision import ImageSyntax, VisionInfo
from neuron.text.tokenizer import TextTokenizer, TokenizerError
from neuron.worker import images
from neuron.worker.image_files import ImageFile
from neuron.worker.images import ImageReader
from tests.support.pictures import bomb, file_of, noise, part_of, url_of
from tests.unit.worker.conftest import Start

SYNTAX = ImageSyntax(
    written="[PICTURE]", spelt="<unk>", token="<unk>", row_end="<s>", end="</s>"
)
VISION = VisionInfo(SYNTAX, LongestEdge(edge=64, patch=4, merge=2), resample=3)
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}:"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}"
    "{% if part.type == 'image' %}{% if m.role == 'user' %}[PICTURE]{% endif %}"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}]{% endfor %}"
)


def _says(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


async def test_an_image_is_in_the_prompt_with_all_its_tokens(start: Start) -> None:
    message = _user(_says("Look: "), part_of(picture := noise(16, 24)), _says("!"))
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(messages=[message])
        [seen] = worker.engine.seen
        _, counted = await worker.post(
            "/v1/tokenize", {"model": "m", "messages": [message]}
        )
    assert status == 200, answer
    [image] = seen.images
    assert np.array_equal(image.pixels, np.asarray(picture))
    start_at = image.positions[0]
    # Three rows of two parts, each with an end.
    assert seen.prompt_ids[start_at : start_at + 9] == (0, 0, 1, 0, 0, 1, 0, 0, 2)
    assert image.positions == tuple(start_at + at for at in (0, 1, 3, 4, 6, 7))
    assert worker.tokenizer.decode(seen.prompt_ids[start_at + 9 :]) == "!]"
    assert answer["usage"]["prompt_tokens"] == len(seen.prompt_ids)
    assert counted["tokens"] == list(seen.prompt_ids)


async def test_images_of_all_turns_are_there_in_order(start: Start) -> None:
    pictures = [noise(8, 8, seed) for seed in range(3)]
    messages = [
        _user(part_of(pictures[0]), _says("and"), part_of(pictures[1])),
        {"role": "assistant", "content": "Two."},
        _user(part_of(pictures[2]), part_of(pictures[0])),
    ]
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        await worker.chat(messages=messages)
        [seen] = worker.engine.seen
    shown = [image.pixels for image in seen.images]
    for found, picture in zip(shown, [*pictures, pictures[0]], strict=True):
        assert np.array_equal(found, np.asarray(picture))
    digests = [image.digest for image in seen.images]
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3
    places = [at for image in seen.images for at in image.positions]
    assert places == sorted(places)
    assert all(seen.prompt_ids[at] == 0 for at in places)
    assert seen.prompt_ids.count(0) == len(places)


async def test_a_large_image_is_made_smaller(start: Start) -> None:
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        await worker.chat(messages=[_user(part_of(noise(128, 64)))])
        large = Image.new("RGB", (2048, 1024))
        await worker.chat(messages=[_user(part_of(large, detail="low"))])
        first, second = (seen.images[0] for seen in worker.engine.seen)
    assert first.pixels.shape == (32, 64, 3)
    assert second.pixels.shape == (32, 64, 3)


async def test_low_detail_takes_fewer_tokens(start: Start) -> None:
    fine = VisionInfo(SYNTAX, LongestEdge(edge=1024, patch=16, merge=2), resample=3)
    async with start("x", template=TEMPLATE, vision=fine) as worker:
        part = part_of(noise(640, 32), detail="low")
        await worker.chat(messages=[_user(part)])
        [seen] = worker.engine.seen
    assert seen.images[0].pixels.shape == (32, 512, 3)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.com/cat.png", "http and https URLs are not fetched"),
        ("data:image/png;base64,AAAA", "no PNG, JPEG, WebP or GIF"),
        (url_of(bomb(60000, 60000)), "60000 by 60000 pixels"),
        (url_of(file_of(noise(64, 64))[:5000]), "cannot be decoded"),
    ],
)
async def test_what_cannot_be_seen_is_refused_where_it_is(
    start: Start, url: str, said: str
) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(
            messages=[_user(_says("Hi")), _user(_says("See"), part)]
        )
        assert not worker.engine.seen
    assert status == 400
    assert answer["error"]["param"] == "messages[1].content[1]"
    assert said in answer["error"]["message"]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url"}, "messages[0].content[0].image_url"),
        (
            {"type": "image_url", "image_url": {"url": 5}},
            "messages[0].content[0].image_url",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:,", "detail": "huge"}},
            "messages[0].content[0].image_url.detail",
        ),
    ],
)
async def test_a_malformed_part_is_named(
    start: Start, part: dict[str, Any], param: str
) -> None:
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(messages=[_user(part)])
    assert (status, answer["error"]["param"]) == (400, param)


async def test_a_model_without_eyes_refuses_by_name(start: Start) -> None:
    async with start("x", template=TEMPLATE) as worker:
        message = _user(_says("See"), part_of(noise(8, 8)))
        status, answer = await worker.chat(messages=[message])
        told, _ = await worker.post(
            "/v1/tokenize", {"model": "m", "messages": [message]}
        )
    assert (status, told) == (400, 400)
    assert answer["error"]["code"] == "unsupported_parameter"
    assert answer["error"]["param"] == "messages[0].content[1]"


async def test_a_text_may_not_stand_for_an_image(start: Start) -> None:
    part = part_of(noise(8, 8))
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(messages=[_user(part, _says("a [PICTURE]"))])
        alone, _ = await worker.chat(messages=[_user(_says("a [PICTURE]"))])
    assert (status, alone) == (400, 200)
    assert "[PICTURE]" in answer["error"]["message"]


@pytest.mark.parametrize("role", ["system", "assistant"])
async def test_an_image_that_the_template_does_not_show_is_no_answer(
    start: Start, role: str
) -> None:
    message = {"role": role, "content": [_says("See"), part_of(noise(8, 8))]}
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(messages=[message, _user(_says("Well?"))])
        assert not worker.engine.seen
    assert status == 422
    assert answer["error"]["param"] == "messages[0].content[1]"
    assert "shows 0 of 1 images" in answer["error"]["message"]


async def test_the_length_counts_before_anything_is_decoded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ImageFile, "pixels", decode)
    message = _user(*[part_of(noise(64, 64, seed)) for seed in range(4)])
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(messages=[message])
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("name", ["prompt_logprobs", "truncate_prompt_tokens"])
async def test_what_there_is_not_beside_images_is_refused(
    start: Start, name: str
) -> None:
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(
            messages=[_user(part_of(noise(8, 8)))], **{name: 5}
        )
    assert (status, answer["error"]["param"]) == (400, name)


async def test_a_conversation_has_a_bounded_number_of_images(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGES", 2)
    parts = [part_of(noise(8, 8, seed)) for seed in range(3)]
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(messages=[_user(*parts)])
    assert (status, answer["error"]["param"]) == (400, "messages[0].content[2]")


async def test_tools_are_told_beside_an_image(start: Start) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    message = _user(part_of(noise(8, 8)), _says("What?"))
    async with start("x", template=TEMPLATE, vision=VISION) as worker:
        status, answer = await worker.chat(messages=[message], tools=[tool])
        [seen] = worker.engine.seen
    assert status == 200, answer
    assert len(seen.images) == 1
    assert '"look"' in worker.tokenizer.decode(seen.prompt_ids)


def test_a_tokenizer_without_the_tokens_is_refused(tokenizer: TextTokenizer) -> None:
    syntax = ImageSyntax(written="[IMG]", spelt="[IMG]", token="[IMG]")
    vision = VisionInfo(syntax, VISION.sizing, resample=3)
    with pytest.raises(TokenizerError, match=r"\[IMG\]"):
        ImageReader.of(vision, tokenizer)
