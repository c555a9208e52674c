"""Photographs load from the wheels and from files; what is no photograph says so."""

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


def test_the_fingerprint_follows_the_pixels():
    assert photos.fingerprint(["cat"], 32) == photos.fingerprint(["cat"], 32)
    assert len({photos.fingerprint([n], s) for n, s in (("cat", 32), ("cat", 33), ("coffee", 32))}) == 3


def test_outlined_objects():
    ids = photos.objects("coffee", 128)
    assert ids.unique().tolist() == [0, 1, 2, 3] and ids.shape == (128, 128)
    assert ids[35, 50] == 2 and ids[92, 85] == 3 and ids[110, 60] == 1 and ids[5, 5] == 0, "cup, spoon, saucer, table"
    cup = photos.load("coffee", 128)[:, ids == 2].mean(1)
    table = photos.load("coffee", 128)[:, ids == 0].mean(1)
    assert cup.mean() > table.mean() + 0.1, "the cup is the bright thing"
    with pytest.raises(DataError, match="no outlines for 'cat'.*coffee"):
        photos.objects("cat")


def test_crop_i_depends_on_the_seed_and_i_alone():
    few, many = photos.crops(["cat", "coffee"], 3, 32, seed=1), photos.crops(["cat", "coffee"], 8, 32, seed=1)
    assert torch.equal(few, many[:3]) and many.shape == (8, 3, 32, 32) and 0 <= many.min() and many.max() <= 1
    assert not torch.equal(few, photos.crops(["cat", "coffee"], 3, 32, seed=2))
