"""Whatever holds a picture gives the same pixels, and what does not is refused in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import clips, photos
from lib.files import DataError

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
CLIP = RNG.integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


@pytest.fixture
def file(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "x.png")
    return tmp_path / "x.png"


def test_one_image_in_many_hands(file):
    floats = torch.from_numpy(PICTURE).permute(2, 0, 1).float() / 255
    mirrored = PICTURE[:, ::-1].copy()[:, ::-1]  # negative strides
    hands = (
        file,
        str(file),
        file.read_bytes(),
        Image.open(file),
        PICTURE,
        mirrored,
        PICTURE.astype(int),
        PICTURE / 255.0,
        floats,
    )
    for source in hands:
        frames, video = clips.pictures(source)
        assert not video and frames.shape == (1, 3, 40, 50) and frames.dtype == torch.float32
        torch.testing.assert_close(frames[0], floats, atol=1e-6, rtol=0)
    grey, _ = clips.pictures(PICTURE[..., 0])
    assert grey.shape == (1, 3, 40, 50) and torch.equal(grey[0, 0], grey[0, 2])
    assert clips.pictures("coffee")[0].shape[2:] == clips.pictures(photos.open_image(_coffee()))[0].shape[2:]


def _coffee():
    package, name = photos.PACKAGED["coffee"]
    return clips.Path(str(clips.files(package) / name))


def test_one_video_in_many_hands(tmp_path):
    images = [Image.fromarray(frame) for frame in CLIP]
    images[0].save(tmp_path / "x.png", save_all=True, append_images=images[1:])
    (tmp_path / "frames").mkdir()
    for t, image in enumerate(images):
        image.save(tmp_path / "frames" / f"{t}.png")
    floats = torch.from_numpy(CLIP).permute(0, 3, 1, 2).float() / 255
    for source in (tmp_path / "x.png", tmp_path / "frames", CLIP, floats):
        frames, video = clips.pictures(source)
        assert video
        torch.testing.assert_close(frames, floats, atol=1e-6, rtol=0)


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert clips.pictures(tmp_path / "x.png")[0].min() == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.full((40, 40, 3), np.nan), "4800 of 4800 pixel values are not finite"),
        (np.full((40, 40, 3), 2.0), "pixel values from 2 to 2; give integers 0..255 or floats 0..1"),
        (np.full((40, 40, 3), -1), "pixel values from -1 to -1"),
        (np.ones((40, 40, 3), bool), "pixels of torch.bool are no colours"),
        (np.zeros((40, 40, 4)), r"an array \(40, 40, 4\) is no picture"),
        (np.zeros(40), r"an array \(40,\) is no picture"),
        (np.zeros((0, 40, 40, 3)), "0 frames of 40 x 40 px"),
        (np.zeros((31, 40, 3)), "1 frames of 40 x 31 px; give one of at least 32 a side"),
        (np.zeros((7, 100, 100, 3), np.uint8), "7 frames of 100 x 100 px are more than 50000 pixels; give fewer"),
        (None, "a NoneType is no picture; give a path, a PIL image or an array"),
        ("nowhere.png", "nowhere.png does not exist; give the path of an image or one of cat"),
        (__file__, "is not readable .*ffmpeg -i VIDEO"),
        (b"no image", "the file is not readable"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(source, message, monkeypatch):
    monkeypatch.setattr(clips, "MOST_PIXELS", 50_000)
    with pytest.raises(DataError, match=message) as stopped:
        clips.pictures(source)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("begins", [b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01webm"])
def test_of_a_film_that_needs_a_decoder_it_says_how_to_unpack_it(tmp_path, begins):
    (tmp_path / "x.mp4").write_bytes(begins + bytes(99))
    with pytest.raises(DataError, match=r"x.mp4 is not readable .*; write other videos as frames: ffmpeg -i VIDEO"):
        clips.pictures(tmp_path / "x.mp4")


def test_folders_that_are_no_video(tmp_path):
    with pytest.raises(DataError, match=r"holds no image \(.png.*ffmpeg"):
        clips.pictures(tmp_path)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    Image.new("RGB", (50, 40)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="frames of 40 x 40 and 50 x 40 px; give frames of one size"):
        clips.pictures(tmp_path)


def test_an_animation_that_would_not_fit_is_not_decoded(tmp_path, monkeypatch):
    images = [Image.fromarray(frame) for frame in CLIP]
    images[0].save(tmp_path / "x.gif", save_all=True, append_images=images[1:])
    monkeypatch.setattr(clips, "MOST_PIXELS", 5000)
    with pytest.raises(DataError, match="3 frames of 50 x 40 px, more than 5000 pixels"):
        clips.pictures(tmp_path / "x.gif")
