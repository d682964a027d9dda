"""Images as clients send them: data URLs, opened with limits, decoded when needed.

A file is hostile until it was decoded. Its size in pixels is in its header, and what is
too large is refused there, before there is memory for one of them.
"""

import base64
import binascii
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

T = TypeVar("T")

MAX_BYTES: Final = 20 << 20
"""Of one image's file."""
MAX_PIXELS: Final = 1 << 25
"""Of one image as it is sent; 100 MB when decoded."""
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
_ORIENTED: Final = ("JPEG", "WEBP")
"""Formats of cameras; others have what EXIF they have behind the pixels."""
_ORIENTATION: Final = 0x0112
_SIDEWAYS: Final = 5
"""Orientations from here on swap width and height."""
_DATA_URL: Final = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_HTTP: Final = re.compile(r"https?:", re.IGNORECASE)
_WIDE: Final = ("I", "I;16", "I;16B", "I;16L")
"""Modes of grey in 16 bits."""


class ImageFileError(ValueError):
    """It cannot be taken; the text says why, and what would be right."""


class ImageFile:
    """An image whose header was read, and nothing more."""

    def __init__(self, picture: "Picture") -> None:
        self._picture = picture
        self._orientation = _orientation(picture)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, the right way up."""
        width, height = self._picture.size
        return (height, width) if self._orientation >= _SIDEWAYS else (width, height)

    def pixels(self, size: tuple[int, int], resample: int) -> NDArray[np.uint8]:
        """Decode it: [height, width, 3] of that width and height, 0 to 255. Slow.

        Of an animation the first picture; what shows through is white.

        Args:
            size: width and height.
            resample: Pillow's number of a filter.

        Raises:
            ImageFileError: it is damaged.
        """
        from PIL import Image

        return _guarded(lambda: self._pixels(size, Image.Resampling(resample)))

    def _pixels(self, size: tuple[int, int], resample: Any) -> NDArray[np.uint8]:
        from PIL import ImageOps

        picture = self._picture
        picture.load()
        if self._orientation > 1:
            picture = ImageOps.exif_transpose(picture)
        picture = _on_white(picture)
        if picture.size != size:
            picture = picture.resize(size, resample)
        pixels = np.array(picture)
        pixels.flags.writeable = False
        return pixels


def open_image(url: str) -> ImageFile:
    """The image that a URL holds, its header read.

    Raises:
        ImageFileError: the URL is none that holds an image, or it is too large.
    """
    from PIL import Image

    data = _data(url)
    if len(data) > MAX_BYTES:
        raise ImageFileError(
            f"the image has {len(data)} bytes, and may have {MAX_BYTES}"
        )
    # Pillow's own check only warns first; what is too large is refused below.
    Image.MAX_IMAGE_PIXELS = None
    picture = _guarded(lambda: Image.open(io.BytesIO(data), formats=_FORMATS))
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageFileError(
            f"the image has {width} by {height} pixels, and may have {MAX_PIXELS}"
        )
    return _guarded(lambda: ImageFile(picture))


def _data(url: str) -> bytes:
    if _HTTP.match(url):
        raise ImageFileError(
            "http and https URLs are not fetched; send the image itself, as"
            " data:image/png;base64,…"
        )
    head = _DATA_URL.match(url)
    if head is None:
        raise ImageFileError("must be a URL such as data:image/png;base64,…")
    kind, options = head[1].strip().lower(), head[2].lower().split(";")
    if kind and not kind.startswith("image/"):
        raise ImageFileError(f"{kind[:40]!r} is no type of image")
    if "base64" not in (option.strip() for option in options):
        raise ImageFileError("the data must be in base64, as data:image/png;base64,…")
    text = url[head.end() :]
    if len(text) > 2 * MAX_BYTES:
        raise ImageFileError(f"the image has more than the {MAX_BYTES} bytes it may")
    try:
        return base64.b64decode(unquote(text) if "%" in text else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageFileError(f"the data is not in base64: {error}") from None


def _guarded(work: Callable[[], T]) -> T:
    """What Pillow makes of a file.

    Raises:
        ImageFileError: it makes nothing of it; decoders raise whatever comes to mind.
    """
    from PIL import UnidentifiedImageError

    try:
        return work()
    except UnidentifiedImageError:
        raise ImageFileError("the data is no PNG, JPEG, WebP or GIF image") from None
    except Exception as error:
        raise ImageFileError(f"the image cannot be decoded: {error}") from error


def _orientation(picture: "Picture") -> int:
    if picture.format not in _ORIENTED:
        return 1
    found = picture.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _on_white(picture: "Picture") -> "Picture":
    """In RGB; what is transparent lets white through."""
    from PIL import Image

    if picture.mode in _WIDE:
        grey = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255)
        picture = Image.fromarray(grey.astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    above = picture.convert("RGBA")
    white = Image.new("RGBA", above.size, "WHITE")
    white.alpha_composite(above)
    return white.convert("RGB")
