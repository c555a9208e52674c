"""Photographs load from the wheels and from files; what is no photograph says so."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import DataError, photos


@pytest.mark.parametrize("name", photos.PACKAGED)
def test_packaged_photographs(name):
    image = photos.load(name, 48)
    assert image.shape == (3, 48, 48) and image.dtype == torch.float32
    assert 0 <= image.min() < 0.3 and 0.6 < image.max() <= 1 and image.std() > 0.1, "a picture, not a blank"


def test_the_central_square_of_a_file_of_yours(tmp_path):
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, 20:80, 0] = 255  # the central square is red
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    image = photos.load(tmp_path / "mine.png", 40)
    assert (image[0] == 1).all() and (image[1:] == 0).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    name = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (40, 40)).save(name)
    image = photos.load(name, 32)
    assert image.shape == (3, 32, 32)
    # A new image is all zeros: transparent, which is laid on white; in CMYK no ink, which is white too; else black.
    assert image.mean() == (1.0 if mode in ("LA", "RGBA", "CMYK") else 0.0)


def test_unreadable_files_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    cut, text, empty = tmp_path / "cut.png", tmp_path / "text.jpg", tmp_path / "empty.png"
    cut.write_bytes(whole.read_bytes()[:2000])
    text.write_text("no image at all")
    empty.write_bytes(b"")
    for path in (cut, text, empty):
        with pytest.raises(DataError, match=rf"{path.name} is not readable .*give a PNG or JPEG"):
            photos.load(path)


def test_tiny_and_missing_files_are_named(tmp_path):
    Image.new("RGB", (100, 31)).save(tmp_path / "tiny.png")
    with pytest.raises(DataError, match=r"tiny.png is 100 x 31 px; give one of at least 32"):
        photos.load(tmp_path / "tiny.png")
    with pytest.raises(DataError, match=r"no photograph 'dog'.*cat"):
        photos.load("dog")


# what an image of yours may be

RAMP = np.linspace(0, 1, 40 * 50).reshape(40, 50)


def chunked(width, height, bits, colour, rows):
    """A PNG by hand: depths that Pillow does not write, sizes that it would need gigabytes for."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def tiff(values, tags=()):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=dict(tags))
    return buffer.getvalue()


def png16(values, colour):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return chunked(50, 40, 16, colour, rows)


def in_bits(count):
    return np.rint(RAMP * (2**count - 1)).astype(np.uint16)


def twelve_bits():
    """A TIFF of 12 bits a pixel, packed by hand: two pixels in three bytes."""
    a, b = in_bits(12).reshape(-1, 2).astype(int).T
    body = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    tags = [(256, 50), (257, 40), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 40), (279, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


DEEP = {
    "16-bit grey PNG": lambda: png16(in_bits(16), 0),
    "16-bit RGB PNG": lambda: png16(np.repeat(in_bits(16), 3, 1), 2),
    "16-bit RGBA PNG": lambda: png16(np.dstack([in_bits(16)] * 3 + [np.full((40, 50), 65535)]).reshape(40, -1), 6),
    "16-bit TIFF": lambda: tiff(in_bits(16)),
    "16-bit TIFF, white is zero": lambda: tiff(65535 - in_bits(16), {262: 0}),
    "12-bit TIFF": twelve_bits,
    "float TIFF": lambda: tiff(RAMP.astype(np.float32)),
}


@pytest.mark.parametrize("make", DEEP.values(), ids=DEEP)
def test_deep_pictures_are_scaled_by_their_range(tmp_path, make):
    (tmp_path / "deep.png").write_bytes(make())
    pixels = np.asarray(photos.open_image(tmp_path / "deep.png").convert("RGB")) / 255
    assert np.abs(pixels - RAMP[..., None]).max() < 1.01 / 255
    assert abs(float(photos.load(tmp_path / "deep.png", 40).mean()) - 0.5) < 0.01


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (255 * RAMP.astype(np.float32), "values from 0 to 255 where 0 to 1 are due"),
        (RAMP.astype(np.float32) - 0.5, "values from -0.5 to 0.5 where"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "values from nan to nan where"),
        ((RAMP * 1000).astype(np.int32), "32-bit or signed integers, whose range is not known"),
    ],
)
def test_numbers_without_a_known_range_are_refused(tmp_path, values, match):
    (tmp_path / "x.tif").write_bytes(tiff(values))
    with pytest.raises(DataError, match=rf"x.tif is not readable \({match}.*\); give a PNG or JPEG"):
        photos.load(tmp_path / "x.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_turned_as_their_exif_tag_says(tmp_path, suffix, orientation):
    upright = Image.new("RGB", (60, 40))
    upright.paste("red", (0, 0, 30, 20))
    upright.paste("blue", (30, 0, 60, 20))
    turns = {  # what a camera stores so that the tag turns it back
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE",
        8: "ROTATE_270",
    }  # fmt: skip
    stored = upright.transpose(Image.Transpose[turns[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"x.{suffix}"
    stored.save(path, exif=exif, **({"quality": 95} if suffix in ("jpg", "webp") else {}))
    image = photos.open_image(path)
    assert image.size == (60, 40)
    assert np.abs(np.asarray(image, float) - np.asarray(upright, float)).mean() < 8
    label = Image.new("L", (60, 40))
    label.save(path.with_suffix(".png"), exif=exif)
    if orientation == 1:
        assert photos.open_label(path.with_suffix(".png")).shape == (40, 60)
    else:
        with pytest.raises(DataError, match="x.png is not readable .its EXIF tag asks for it to be turned.; give an"):
            photos.open_label(path.with_suffix(".png"))


def other(format):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


STRANGE = {
    "EPS": (lambda path: path.write_bytes(other("EPS")), "no intact PNG"),
    "damaged DDS": (lambda path: path.write_bytes(b"DDS " + struct.pack("<I", 124) + bytes(120)), "no intact PNG"),
    "damaged AVIF": (lambda path: path.write_bytes(b"\0\0\0\x1cftypavif" + bytes(40)), "no intact PNG"),
    "damaged WebP": (lambda path: path.write_bytes(other("WEBP")[:600]), ""),
    "damaged TIFF": (lambda path: path.write_bytes(tiff(in_bits(16))[:700]), ""),
    "169 megapixels": (
        lambda path: path.write_bytes(chunked(13000, 13000, 1, 0, bytes(1626 * 13000))),
        "13000 x 13000 px, more than 67108864",
    ),
    "pipe": (os.mkfifo, "cannot be read: it is a folder, a pipe or a device; "),
    "folder": (os.mkdir, "cannot be read: it is a folder, a pipe or a device; "),
    "dead link": (lambda path: os.symlink("absent", path), "cannot be read: No such file"),
    "link to itself": (lambda path: os.symlink(path, path), "cannot be read: Too many levels of symbolic links"),
    "empty": (lambda path: path.touch(), "no intact PNG"),
}


@pytest.mark.parametrize("opened", [photos.open_image, photos.open_label])
@pytest.mark.parametrize("case", STRANGE)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, in_time, recwarn, opened, case):
    make, match = STRANGE[case]
    make(tmp_path / "x.png")
    with pytest.raises(DataError, match=f"x.png .*{match}") as error:
        opened(tmp_path / "x.png")
    assert "\n" not in str(error.value) and "BytesIO" not in str(error.value) and ";" in str(error.value)
    assert not recwarn.list


@pytest.mark.parametrize("kind", [NotImplementedError, KeyError, struct.error, RuntimeError, zlib.error, EOFError])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, kind):
    def fail(*_, **__):
        raise kind("odd")

    (tmp_path / "x.png").touch()
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=r"x.png is not readable \('?odd'?\); give a PNG"):
        photos.open_image(tmp_path / "x.png")


def test_a_picture_larger_than_any_is_not_even_read(tmp_path):
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(200 * 10**9)
    with pytest.raises(DataError, match=r"x.png has more than \d+ bytes"):
        photos.open_image(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x" * 5000, "x\0y", "\ud800"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(DataError, match="no photograph") as error:
        photos.load(name)
    assert len(str(error.value)) < 400 and str(error.value).encode()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_labels_of_other_formats_are_refused(tmp_path, format):
    Image.fromarray(np.full((40, 40), 8, np.uint8)).save(tmp_path / "x.png", format)
    with pytest.raises(DataError, match=r"x.png is not readable \(it is no intact PNG\); give an 8-bit PNG"):
        photos.open_label(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["1", "LA", "RGB", "RGBA", "I;16"])
def test_labels_of_other_modes_are_refused(tmp_path, mode):
    Image.new(mode, (40, 40)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=rf"x.png is not readable \(it has the pixel mode {mode}\); give an 8-bit PNG"):
        photos.open_label(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_are_read_as_stored(tmp_path, mode):
    ids = np.arange(1600, dtype=np.uint8).reshape(40, 40) % 14 + 1
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette([(5 * i) % 256 for i in range(768)])
    image.save(tmp_path / "x.png", transparency=3, **({"bits": 4} if mode == "P" else {}))
    assert (photos.open_label(tmp_path / "x.png") == ids).all()
