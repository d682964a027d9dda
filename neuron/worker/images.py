"""Images in the messages of a chat, from URLs to places in a prompt's tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from neuron.engines.base import Image
from neuron.models.image_sizing import ImageGrid, ImageSizeError
from neuron.models.vision import VisionInfo
from neuron.protocol.errors import ApiError
from neuron.text.abandonment import stop_if_abandoned
from neuron.text.conversation import IMAGE, Message, texts
from neuron.text.tokenizer import TextTokenizer, TokenizerError
from neuron.worker.image_files import ImageFile, ImageFileError, open_image
from neuron.worker.messages import IMAGE_URL
from neuron.worker.unsupported import UNSUPPORTED

MAX_IMAGES: Final = 64
"""In one conversation."""
_DETAILS: Final = (None, "auto", "low", "high")
_LOW: Final = 512
"""Pixels on the longer side of an image that may be seen in low detail."""


@dataclass(frozen=True, slots=True)
class _Source:
    """An image as a message has it."""

    place: str
    url: str
    low: bool
    """Whether it may be seen in low detail."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """What is to be seen of an image of that size."""
        longest = max(width, height)
        if not self.low or longest <= _LOW:
            return width, height
        return max(1, width * _LOW // longest), max(1, height * _LOW // longest)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a conversation, not yet decoded."""

    place: str
    """`messages[i].content[j]`."""
    file: ImageFile
    grid: ImageGrid
    positions: tuple[int, ...] = ()
    """Of its tokens in the prompt."""

    def decoded(self, resample: int) -> Image:
        """What the engine looks at. Slow.

        Raises:
            ApiError: 400, the file is damaged.
        """
        stop_if_abandoned()
        try:
            pixels = self.file.pixels((self.grid.width, self.grid.height), resample)
        except ImageFileError as error:
            raise _refused(self.place, str(error)) from error
        return Image.of(pixels, self.positions)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages with `{"type": "image"}` for every image, as templates take it."""

    messages: list[Message]
    sources: tuple[_Source, ...] = ()


class ImageReader:
    """Puts images into prompts as one model takes them; safe to share."""

    def __init__(self, vision: VisionInfo, ids: Mapping[str, int]) -> None:
        """`ids` are of the tokens in `vision.syntax.tokens`."""
        self._vision = vision
        self._ids = ids
        self._token = ids[vision.syntax.token]

    @classmethod
    def of(cls, vision: VisionInfo | None, tokenizer: TextTokenizer) -> Self | None:
        """None for a model that takes no images.

        Raises:
            TokenizerError: it takes them, and its tokenizer lacks a token of theirs.
        """
        if vision is None:
            return None
        known = tokenizer.added_tokens
        for token in vision.syntax.tokens:
            if token not in known:
                raise TokenizerError(
                    f"tokenizer.json has no token {token}, which images need"
                )
        return cls(vision, {token: known[token] for token in vision.syntax.tokens})

    def spell(self, text: str, conversation: Conversation) -> str:
        """The rendered conversation with its images spelt out."""
        if not conversation.sources:
            return text
        return text.replace(self._vision.syntax.written, self._vision.syntax.spelt)

    def check_texts(self, messages: Sequence[Message]) -> None:
        """See that texts hold nothing that stands for an image.

        Raises:
            ApiError: 400, one does.
        """
        syntax = self._vision.syntax
        reserved = {syntax.written, *syntax.tokens}
        for index, message in enumerate(messages):
            found = [r for text in texts(message) for r in reserved if r in text]
            if found:
                raise _refused(
                    f"messages[{index}].content",
                    f"the text holds {found[0]}, which stands for an image here",
                )

    def place(
        self, ids: Sequence[int], conversation: Conversation
    ) -> tuple[list[int], tuple[Picture, ...]]:
        """The prompt with every image's own number of tokens, and where they are.

        Reads headers only.

        Raises:
            ApiError: 400, an image cannot be taken; 422, the template shows some of
                them not, or not once. `param` says which.
        """
        sources = conversation.sources
        if not sources:
            return [*ids], ()
        if (shown := ids.count(self._token)) != len(sources):
            raise ApiError(
                422,
                f"the model's chat template shows {shown} of {len(sources)} images; it"
                " may take them in messages of the user only",
                code="template_render_failed",
                param=sources[0].place,
            )
        pictures = iter([self._open(source) for source in sources])
        placed: list[Picture] = []
        longer: list[int] = []
        for token in ids:
            if token == self._token:
                picture = next(pictures)
                placed.append(replace(picture, positions=self._lay(picture, longer)))
            else:
                longer.append(token)
        return longer, tuple(placed)

    def _lay(self, picture: Picture, ids: list[int]) -> tuple[int, ...]:
        """Put its tokens behind `ids`; returns where those of its parts are."""
        start = len(ids)
        ids += [self._ids[token] for token in self._vision.layout(picture.grid)]
        return tuple(at for at in range(start, len(ids)) if ids[at] == self._token)

    def decode(self, pictures: Sequence[Picture]) -> tuple[Image, ...]:
        """What the engine looks at. Slow.

        Raises:
            ApiError: 400, a file is damaged.
        """
        return tuple(each.decoded(self._vision.resample) for each in pictures)

    def _open(self, source: _Source) -> Picture:
        stop_if_abandoned()
        try:
            file = open_image(source.url)
            grid = self._vision.grid(*source.size(*file.size))
        except (ImageFileError, ImageSizeError) as error:
            raise _refused(source.place, str(error)) from error
        return Picture(source.place, file, grid)


def take_images(
    messages: Sequence[Message], reader: ImageReader | None
) -> Conversation:
    """A request's messages, its images taken out of them.

    Raises:
        ApiError: 400, there are images and nobody to look at them, one is malformed,
            there are too many, or a text holds what stands for an image.
    """
    parts = list(_image_parts(messages))
    if not parts:
        return Conversation(list(messages))
    if reader is None:
        raise _refused(
            parts[0][0],
            f"content of type {IMAGE_URL} is not supported by this model, only text is",
            code=UNSUPPORTED,
        )
    if len(parts) > MAX_IMAGES:
        raise _refused(
            parts[MAX_IMAGES][0],
            f"there are {len(parts)} images, and may be {MAX_IMAGES}",
        )
    sources = tuple(_source(part, place) for place, part in parts)
    taken = [_without_images(message) for message in messages]
    reader.check_texts(taken)
    return Conversation(taken, sources)


def _image_parts(
    messages: Sequence[Message],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, part) of every image."""
    for index, message in enumerate(messages):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") == IMAGE_URL:
                yield f"messages[{index}].content[{number}]", part


def _without_images(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [
        {"type": IMAGE} if part.get("type") == IMAGE_URL else part for part in content
    ]
    return {**message, "content": parts}


def _source(part: Mapping[str, Any], place: str) -> _Source:
    found = part.get(IMAGE_URL)
    details = found if isinstance(found, dict) else {"url": found}
    url = details.get("url")
    if not isinstance(url, str):
        raise _refused(
            f"{place}.{IMAGE_URL}", 'must be an object such as {"url": "data:…"}'
        )
    if (detail := details.get("detail")) not in _DETAILS:
        raise _refused(f"{place}.{IMAGE_URL}.detail", "must be auto, low or high")
    return _Source(place, url, low=detail == "low")


def _refused(param: str, reason: str, code: str = "invalid_request_body") -> ApiError:
    return ApiError(400, f"{param}: {reason}", code=code, param=param)
