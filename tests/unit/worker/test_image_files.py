"""Images as they are sent: what is taken, how it looks then, and what is refused."""

import base64

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from neuron.worker import image_files
from neuron.worker.image_files import MAX_BYTES, ImageFileError, open_image
from tests.support.pictures import bomb, file_of, noise, url_of

_BICUBIC = 3


def _pixels(url: str) -> np.ndarray:
    file = open_image(url)
    return file.pixels(file.size, _BICUBIC)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_picture_comes_out_as_it_went_in(form: str) -> None:
    picture = noise(37, 21)
    url = url_of(file_of(picture, form, lossless=True), f"image/{form.lower()}")
    assert open_image(url).size == (37, 21)
    assert np.array_equal(_pixels(url), np.asarray(picture))


@pytest.mark.parametrize("form", ["JPEG", "GIF"])
def test_a_picture_of_one_colour_keeps_it(form: str) -> None:
    picture = Image.new("RGB", (40, 30), (200, 30, 90))
    pixels = _pixels(url_of(file_of(picture, form)))
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 90)).max() <= 4


def test_what_the_type_says_does_not_matter() -> None:
    data = file_of(noise(8, 8))
    assert open_image(url_of(data, "image/jpeg")).size == (8, 8)
    assert open_image(url_of(data, "")).size == (8, 8)


def test_escaped_base64_is_read() -> None:
    url = url_of(file_of(noise(9, 9)))
    head, _, data = url.partition(",")
    assert open_image(f"{head},{data.replace('+', '%2B')}").size == (9, 9)


def test_it_is_resized_as_pillow_does_it() -> None:
    picture = noise(50, 40)
    pixels = open_image(url_of(file_of(picture))).pixels((28, 56), _BICUBIC)
    wanted = picture.resize((28, 56), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels, np.asarray(wanted))
    assert not pixels.flags.writeable


def test_what_is_transparent_becomes_white() -> None:
    picture = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    picture.putpixel((1, 0), (10, 20, 30, 0))
    assert _pixels(url_of(file_of(picture))).tolist() == [
        [[10, 20, 30], [255, 255, 255]]
    ]
    half = Image.new("LA", (1, 1), (0, 128))
    assert _pixels(url_of(file_of(half))).tolist() == [[[127, 127, 127]]]


def test_grey_in_16_bits_keeps_its_shades() -> None:
    shades = np.array([[0, 255, 32768, 65535]], np.uint16)
    pixels = _pixels(url_of(file_of(Image.fromarray(shades))))
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 255]


def test_the_first_picture_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert _pixels(url_of(data))[0, 0].tolist() == [255, 0, 0]


def test_a_photograph_is_the_right_way_up() -> None:
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("white", (0, 0, 16, 16))  # the left half
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    url = url_of(file_of(picture, "JPEG", exif=exif, quality=95))
    assert open_image(url).size == (16, 32)
    pixels = _pixels(url)
    assert pixels[:12].min() > 200
    assert pixels[20:].max() < 50


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.com/cat.png", "http and https URLs are not fetched"),
        ("HTTP://example.com/cat.png", "http and https URLs are not fetched"),
        ("file:///etc/passwd", "must be a URL such as data:image/png;base64,"),
        ("/etc/passwd", "must be a URL such as"),
        ("", "must be a URL such as"),
        ("data:text/html;base64,PGI+", "'text/html' is no type of image"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "no PNG, JPEG, WebP or GIF image"),
        ("data:image/png,abc", "must be in base64"),
        ("data:image/png;base64,***", "not in base64"),
        ("data:image/png;base64,", "no PNG, JPEG, WebP or GIF image"),
        ("data:image/png;base64,AAAA", "no PNG, JPEG, WebP or GIF image"),
    ],
)
def test_other_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(ImageFileError, match=said):
        open_image(url)


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (8192, 4097)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    data = bomb(width, height)
    assert len(data) < 100_000
    with pytest.raises(ImageFileError, match=f"{width} by {height} pixels"):
        open_image(url_of(data))


def test_a_file_that_ends_early_is_refused_when_it_is_decoded() -> None:
    data = file_of(noise(64, 64))
    file = open_image(url_of(data[: len(data) // 2]))
    with pytest.raises(ImageFileError, match="cannot be decoded"):
        file.pixels((64, 64), _BICUBIC)


_WHOLE = {form: file_of(noise(24, 16), form) for form in ("PNG", "JPEG", "WEBP", "GIF")}


@pytest.mark.parametrize("form", _WHOLE)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_told_and_nothing_else(form: str, data: st.DataObject) -> None:
    damaged = bytearray(_WHOLE[form])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(
            st.integers(0, 255)
        )
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    try:
        file = open_image(url_of(bytes(damaged)))
        pixels = file.pixels((20, 10), _BICUBIC)
    except ImageFileError:
        return
    assert pixels.shape == (10, 20, 3)


def test_bytes_are_counted_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = url_of(file_of(noise(64, 64)))
    monkeypatch.setattr(image_files, "MAX_BYTES", 5000)
    with pytest.raises(ImageFileError, match="more than the 5000 bytes"):
        open_image(url)
    monkeypatch.setattr(image_files, "MAX_BYTES", 10000)
    with pytest.raises(ImageFileError, match="and may have 10000"):
        open_image(url)


def test_a_body_holds_the_largest_file() -> None:
    encoded = len(base64.b64encode(bytes(3))) / 3 * MAX_BYTES
    assert encoded < 64 << 20
