"""Untrusted image files: valid ones decode to the right pixels, all others are rejected with a reason."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from models.image.codec import MAX_BYTES, PictureRejected, decode, fit, read_header
from tests.kit.pictures import animated, bomb, drawn, encoded, half_red, webp_header

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112


def colour_at(content: bytes, *, row: int, column: int, size: int = 32) -> tuple[int, ...]:
    pixels = decode(content, size=size, channels=3)
    assert pixels.shape == (3, size, size) and pixels.dtype == np.uint8
    return tuple(pixels[:, row, column].tolist())


def near(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return all(abs(one - other) < 30 for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_an_image_of_each_format_keeps_its_colours_and_positions(format: str, options: dict[str, int]) -> None:
    content = encoded(half_red(), format, **options)

    assert near(colour_at(content, row=16, column=6), RED)
    assert near(colour_at(content, row=16, column=26), BLUE)


def test_an_image_of_the_right_size_is_not_changed() -> None:
    image = drawn("disc", "green", size=24)

    assert (decode(encoded(image), size=24, channels=3) == np.asarray(image).transpose(2, 0, 1)).all()


def test_a_wide_image_is_padded_with_its_border_colour_and_not_cropped() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste((0, 0, 0), (18, 8, 22, 12))
    pixels = decode(encoded(image), size=40, channels=1)

    assert (pixels[0, :10] == 255).all() and (pixels[0, 30:] == 255).all()
    assert pixels[0, 20, 20] == 0


def test_a_large_jpeg_gives_the_same_pixels_as_a_small_image() -> None:
    large, small = half_red(2000, 1000), half_red(64, 32)

    difference = decode(encoded(large, "JPEG"), size=64, channels=3).astype(int) - decode(
        encoded(small), size=64, channels=3
    )
    assert np.abs(difference[:, :, [10, 50]]).max() < 12


@pytest.mark.parametrize(
    ("orientation", "red_at"), [(1, (16, 4)), (2, (16, 28)), (3, (16, 28)), (6, (4, 16)), (8, (28, 16))]
)
def test_the_exif_orientation_is_applied(orientation: int, red_at: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(half_red(), "JPEG", exif=exif, quality=95)

    assert near(colour_at(content, row=red_at[0], column=red_at[1]), RED)


def test_invalid_exif_data_does_not_reject_the_image() -> None:
    content = encoded(half_red(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage", quality=95)

    assert near(colour_at(content, row=16, column=6), RED)


def test_cmyk_is_converted_to_rgb() -> None:
    content = encoded(half_red().convert("CMYK"), "JPEG", quality=95)

    assert near(colour_at(content, row=16, column=6), RED)
    assert near(colour_at(content, row=16, column=26), BLUE)


def test_sixteen_bits_are_scaled_to_eight_and_not_clipped() -> None:
    shades = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    pixels = decode(encoded(Image.fromarray(shades)), size=32, channels=1)

    assert np.abs(pixels[0, 0].astype(int) - np.linspace(0, 255, 32)).max() <= 1


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA"])
def test_every_mode_is_read(mode: str) -> None:
    image = Image.new("L", (32, 32), 255)
    image.paste(0, (0, 0, 16, 32))
    pixels = decode(encoded(image.convert("RGB" if mode in ("P", "RGBA") else "L").convert(mode)), size=32, channels=3)

    assert pixels[:, 16, 4].tolist() == [0, 0, 0]
    assert pixels[:, 16, 28].tolist() == [255, 255, 255]


def test_transparent_pixels_become_white() -> None:
    image = half_red(32, 32).convert("RGBA")
    image.putpixel((4, 4), (0, 0, 0, 0))
    palette = half_red(32, 32).convert("P")
    index = palette.getpixel((4, 16))

    assert colour_at(encoded(image), row=4, column=4) == WHITE
    assert colour_at(encoded(palette, transparency=index), row=16, column=4) == WHITE
    assert near(colour_at(encoded(palette, transparency=index), row=16, column=28), BLUE)


def test_of_a_polyglot_file_only_the_image_is_read() -> None:
    content = encoded(half_red(), "JPEG", quality=95) + b"PK\x03\x04<script>alert(1)</script>%PDF-1.7"

    assert near(colour_at(content, row=16, column=6), RED)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"%PDF-1.7\n1 0 obj <</Type /Catalog>>", "not_a_picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_a_picture"),
        (b"\xff\xd8\xff", "not_a_picture"),
        (random.Random(0).randbytes(100_000), "not_a_picture"),
        (bytes(MAX_BYTES + 1), "too_many_bytes"),
        (bomb(), "too_many_pixels"),
        (bomb(8_000), "too_many_pixels"),
        (webp_header(16_000, 16_000), "too_many_pixels"),
        (encoded(Image.new("RGB", (3, 400))), "too_small"),
        (animated("WEBP"), "animated"),
        (animated("PNG"), "animated"),
        (animated("GIF"), "not_a_picture"),
        (encoded(half_red(), "BMP"), "not_a_picture"),
        (encoded(half_red(), "TIFF"), "not_a_picture"),
        (encoded(half_red(), "JPEG") + b"\xff\xda" * 200, "too_many_scans"),
    ],
)
def test_an_unusable_image_is_rejected_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(PictureRejected) as rejected:
        decode(content, size=32, channels=3)

    assert rejected.value.reason == reason


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (animated("GIF"), "a GIF image"),
        (encoded(half_red(), "BMP"), "a BMP image"),
        (encoded(half_red(), "TIFF"), "a TIFF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif", "an AVIF image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "a video"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"\n<!DOCTYPE html><html>404 Not Found</html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "an AppleDouble file"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, kind: str) -> None:
    with pytest.raises(PictureRejected, match=f"the file is {kind}") as rejected:
        read_header(content)

    assert rejected.value.reason == "not_a_picture"


def test_an_image_at_the_pixel_limit_is_read() -> None:
    content = encoded(Image.new("L", (5000, 5000), 7))

    assert read_header(content).is_grey
    assert (decode(content, size=16, channels=1) == 7).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_rejected(format: str) -> None:
    content = encoded(drawn("disc", "red", size=200), format)

    with pytest.raises(PictureRejected) as rejected:
        decode(content[: len(content) // 2], size=32, channels=3)
    assert rejected.value.reason in ("truncated", "unreadable", "not_a_picture")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_random_corruption_is_decoded_or_rejected_and_never_crashes(format: str) -> None:
    whole = encoded(drawn("disc", "red", size=40), format)
    draw = random.Random(format)
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            assert decode(bytes(damaged), size=32, channels=3).shape == (3, 32, 32)
        except PictureRejected:
            num_refused += 1

    assert num_refused > 10


def test_of_a_multi_picture_file_the_first_image_is_used() -> None:
    content = encoded(half_red(), "MPO", save_all=True, append_images=[drawn("disc", "green")], quality=95)

    assert near(colour_at(content, row=16, column=6), RED)


def test_raw_pixels_are_resized_like_decoded_ones() -> None:
    image = half_red(40, 20)

    assert (fit(np.asarray(image), size=16, channels=3) == decode(encoded(image), size=16, channels=3)).all()
