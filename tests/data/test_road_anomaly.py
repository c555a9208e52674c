"""lib.data.road_anomaly: the layouts of three publishers, and every error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.camvid import check
from lib.data.road_anomaly import CLASSES, RoadAnomaly
from lib.data.streethazards import IGNORE
from lib.files import DataError

LAYOUTS = ("plain", "webp", "segmentmeifyoucan", "road anomaly", "static", "lost and found")


def save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)


def make(root: Path, layout: str) -> Path:
    """Two images of different sizes; red is 100 where an anomaly is, 50 outside the region of interest, else 10."""
    for i, (h, w) in enumerate(((12, 20), (16, 9))):
        label = np.zeros((h, w), np.uint8)
        label[2:5, 3:7], label[-2:] = 1, IGNORE
        image = np.full((h, w, 3), 10, np.uint8)
        image[..., 0] = np.select([label == 1, label == IGNORE], [100, 50], 10)
        if layout in ("plain", "webp"):
            save(root / f"images/{i}{'.webp' if layout == 'webp' else '.png'}", image, lossless=True)
            save(root / f"labels_masks/{i}.png", label)
        elif layout == "segmentmeifyoucan":
            save(root / f"images/validation_{i}.webp", image, lossless=True)
            save(root / f"images/snowstorm_{i}.webp", image, lossless=True)  # of the test: its label is secret
            save(root / f"labels_masks/validation_{i}_labels_semantic.png", label)
            save(root / f"labels_masks/validation_{i}_labels_semantic_color.png", image)
        elif layout == "road anomaly":
            save(root / f"frames/cow{i}.png", image)
            save(root / f"frames/cow{i}.labels/labels_semantic.png", np.where(label == 1, 2, label))
        else:
            name = f"frankfurt_00000{i}_000019"
            if layout == "static":
                added = np.zeros((h, w, 3), np.int16)
                added[..., 0][label == 1], image[..., 0][label == 1] = 90, 10
                np.savez(root / f"000{i}_{name}_rgb.npz", rgb=added)
            save(root / f"leftImg8bit/val/frankfurt/{name}_leftImg8bit.png", image)
            save(root / f"000{i}_{name}_labels.png", label)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_items(tmp_path, layout):
    data = RoadAnomaly(make(tmp_path, layout))
    assert len(data) == 2 and data.fingerprint.startswith(f"{tmp_path.name} all n=2")
    for (image, label), shape in zip(data, ((12, 20), (16, 9)), strict=True):
        assert image.dtype == torch.float32 and image.shape == (3, *shape) and label.dtype == torch.int64
        assert {*label.unique().tolist()} == {*CLASSES} and (label == 1).sum() == 12
        red = (image[0] * 255).round().long()
        assert torch.equal(red == 100, label == 1) and torch.equal(red == 50, label == IGNORE)
    assert check(tmp_path, {"all": RoadAnomaly}, CLASSES) == []
    before = data.fingerprint
    for added in tmp_path.glob("*_rgb.npz"):
        np.savez(added, rgb=np.zeros((9, 9, 3), np.int16))
    assert (RoadAnomaly(tmp_path).fingerprint == before) == (layout != "static"), "what is added is of the data"


@pytest.mark.parametrize(
    ("layout", "gone", "match"),
    [
        ("plain", "images/1.png", "1.png has no image"),
        ("plain", "labels_masks/0.png", "0.png has no label"),
        ("segmentmeifyoucan", "labels_masks/validation_0_labels_semantic.png", "validation_0.webp has no label"),
        ("road anomaly", "frames/cow1.labels/labels_semantic.png", "not a file but missing"),
        (
            "static",
            "leftImg8bit/val/frankfurt/frankfurt_000001_000019_leftImg8bit.png",
            "has no image frankfurt_000001",
        ),
        ("static", "0001_frankfurt_000001_000019_rgb.npz", "0001_frankfurt_000001_000019_rgb.npz is not a file"),
    ],
)
def test_pairs_that_are_not_whole(tmp_path, layout, gone, match):
    (make(tmp_path, layout) / gone).unlink()
    with pytest.raises(DataError, match=match):
        RoadAnomaly(tmp_path)


@pytest.mark.parametrize(
    ("label", "match"),
    [(np.full((12, 20), 3), "holds the id 3 in 240 pixels"), (np.zeros((12, 21)), "is 21 x 12 px, .* is 20 x 12")],
)
def test_labels_that_do_not_fit(tmp_path, label, match):
    save(make(tmp_path, "plain") / "labels_masks/0.png", label)
    with pytest.raises(DataError, match=match) as error:
        RoadAnomaly(tmp_path)[0]
    assert check(tmp_path, {"all": RoadAnomaly}, CLASSES) == [str(error.value)]


@pytest.mark.parametrize(
    "layout, name", [("webp", "images/0.webp"), ("static", "0000_frankfurt_000000_000019_rgb.npz")]
)
def test_files_that_are_cut_off(tmp_path, layout, name):
    path = make(tmp_path, layout) / name
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match=f"{path.name} is not readable"):
        RoadAnomaly(tmp_path)[0]


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="holds no labelled images"):
        RoadAnomaly(tmp_path)
