"""A folder of pictures is a data set: what lies in it is what comes out, and its content is its fingerprint."""

import numpy as np
import pytest
from PIL import Image

from lib.data.folders import FolderDataset
from lib.files import DataError

RNG = np.random.default_rng(0)


def picture(seed: int = 0) -> tuple[Image.Image, Image.Image]:
    """An image of 96 x 64 px with a bright square in its middle, and its mask."""
    ids = np.zeros((64, 96), np.uint8)
    ids[16:48, 32:64] = 1
    return Image.fromarray(np.where(ids[..., None], 250, 10 * seed).astype(np.uint8).repeat(3, -1)), Image.fromarray(
        ids
    )


@pytest.fixture
def root(tmp_path):
    """Two images, a folder of frames and an animation, with masks."""
    for folder in ("train/walk.1", "train_masks/walk.1", "train_masks/zoom"):
        (tmp_path / folder).mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "walk.1/1", "walk.1/2")):
        image, ids = picture(seed)
        image.save(tmp_path / "train" / f"{name}.png")
        ids.save(tmp_path / "train_masks" / f"{name}.png")
    images = [picture(seed)[0] for seed in (4, 5)]
    images[0].save(tmp_path / "train" / "zoom.gif", save_all=True, append_images=images[1:])
    for t in (1, 2):
        picture()[1].save(tmp_path / "train_masks" / "zoom" / f"{t}.png")
    return tmp_path


def test_images_and_videos_with_their_masks(root):
    data = FolderDataset(root, side=32)
    assert [data[i].name for i in range(len(data))] == ["a", "b", "walk.1", "zoom"]
    assert [data[i].video.shape for i in range(4)] == [(1, 32, 32, 3)] * 2 + [(2, 32, 32, 3)] * 2
    for scene in map(data.__getitem__, range(4)):
        assert scene.video.dtype == scene.masks.dtype == np.uint8 and scene.masks.shape == scene.video.shape[:3]
        assert scene.masks.mean() == 0.25, "the middle of the central square"
        assert scene.video[scene.masks == 1].mean() > 230 > 60 > scene.video[scene.masks == 0].mean()
    assert FolderDataset(root, frames=[1])[2].video[0, 0, 0, 0] == 30, "the second frame"
    with pytest.raises(IndexError):
        data[4]


def test_without_masks_all_is_background(root):
    (root / "train_masks").rename(root / "else")
    assert not FolderDataset(root)[2].masks.any()


def test_the_fingerprint_is_that_of_the_content(root):
    first = FolderDataset(root).fingerprint
    assert FolderDataset(root).fingerprint == first != FolderDataset(root, side=64).fingerprint
    picture(9)[0].save(root / "train" / "walk.1" / "2.png")
    assert FolderDataset(root).fingerprint != first


def test_what_is_wrong_is_one_line(root):
    with pytest.raises(DataError, match=r"test holds no image, animation or folder of frames; put some there"):
        FolderDataset(root, "test")
    (root / "train_masks" / "a.png").unlink()
    with pytest.raises(DataError, match=r"train_masks/a.png cannot be read.*put a file there"):
        FolderDataset(root)[0]
    picture()[1].resize((50, 50)).save(root / "train_masks" / "b.png")
    with pytest.raises(DataError, match=r"train_masks/b.png has not the size of its image, 96 x 64 px"):
        FolderDataset(root)[1]
    (root / "train_masks" / "walk.1" / "2.png").unlink()
    with pytest.raises(DataError, match=r"walk.1: 1 masks where 2 are due"):
        FolderDataset(root)[2]
    (root / "train" / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="b.png is not readable"):
        FolderDataset(root)[1]
    (root / "train" / "b.jpg").touch()
    with pytest.raises(DataError, match="train holds two of the name b, which would share a mask"):
        FolderDataset(root)
