"""Image files made for a test, as bytes and as the URLs that clients send."""

import base64
import io
import zlib
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture in which no two pixels are likely to be alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def file_of(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def url_of(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def part_of(picture: Image.Image, **details: object) -> dict[str, Any]:
    """A part of a message's content."""
    url = url_of(file_of(picture))
    return {"type": "image_url", "image_url": {"url": url, **details}}


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is that large."""
    row = bytes(1 + 3 * width)
    body = zlib.compressobj(9)
    packed = b"".join(body.compress(row) for _ in range(min(height, 64))) + body.flush()
    header = width.to_bytes(4) + height.to_bytes(4) + bytes((8, 2, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)
        for name, data in chunks
    )
