"""lib.data.camvid: the layouts of public copies and of the original, and every error."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.camvid import CLASSES, COLOURS, SPLITS, VOID, CamVid, check, of_colours
from lib.data.streethazards import IGNORE
from lib.files import DataError

NAMES = {
    "train": ("0001TP_006690", "0006R0_f00930", "0016E5_00390", "0016E5_00901"),
    "validation": ("0016E5_07959",),
    "test": ("0001TP_008550", "Seq05VD_f00000"),
}
H, W = 12, 20
LAYOUTS = ("folders", "jpeg", "list", "colour folders", "original")


def make(root: Path, layout: str) -> Path:
    """A tiny copy: the red channel of each image is twenty times its label's id, which goes up to void."""
    rng = np.random.default_rng(0)
    for split, (folder, _) in SPLITS.items():
        lines = []
        for name in NAMES[split]:
            label = rng.integers(0, VOID + 1, (H, W)).astype(np.uint8)
            image = np.stack([label * 20, np.full_like(label, 7), np.full_like(label, 9)], -1)
            kinds, end = {
                "colour folders": ((folder, f"{folder}_labels"), "_L"),
                "original": (("701_StillsRaw_full", "LabeledApproved_full"), "_L"),
            }.get(layout, ((folder, f"{folder}annot"), ""))
            if end:
                several = {i: COLOURS[i][rng.integers(len(COLOURS[i]))] for i in range(VOID + 1)}
                label = np.array([several[i] for i in label.flat], np.uint8).reshape(H, W, 3)
            suffix = ".jpg" if layout == "jpeg" else ".png"
            for kind, picture, file in ((kinds[0], image, name + suffix), (kinds[1], label, f"{name}{end}.png")):
                (root / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(root / kind / file)
            lines.append(f"/SegNet/CamVid/{kinds[0]}/{name}.png /SegNet/CamVid/{kinds[1]}/{name}.png")
        if layout == "list":
            (root / f"{folder}.txt").write_text("\n".join(reversed(lines)) + "\n")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_layout_gives_the_same_items(tmp_path, layout, split):
    data = CamVid(make(tmp_path, layout), split)
    order = NAMES[split][::-1] if layout == "list" else NAMES[split]
    assert [Path(name).stem for name in data.names] == list(order) and len(data) == len(order)
    assert data.towns == [name.split("_")[0] for name in order] and split in data.fingerprint
    for image, label in data:
        assert image.dtype == torch.float32 and image.shape == (3, H, W) and label.dtype == torch.int64
        ids = torch.where(label == IGNORE, VOID, label)
        assert ids.max() <= VOID and (label == IGNORE).any()
        assert layout == "jpeg" or torch.equal((image[0] * 255).round().long(), ids * 20)


def test_the_palette_has_32_colours_and_no_other():
    colours = [colour for group in COLOURS for colour in group]
    assert len(COLOURS) == len(CLASSES) + 1 and len(colours) == len({*colours}) == 32
    assert of_colours(np.array([[[128, 64, 128], [1, 2, 3], [0, 0, 0]]], np.uint8)).tolist() == [[3, IGNORE, VOID]]
    some = {
        "LaneMkgsDriv": (128, 0, 192),
        "SUVPickupTruck": (64, 128, 192),
        "Sky": (128, 128, 128),
        "Child": (192, 128, 64),
    }
    some |= {
        "Column_Pole": (192, 192, 128),
        "Bicyclist": (0, 128, 192),
        "Wall": (64, 192, 0),
        "Truck_Bus": (192, 128, 192),
    }
    due = ["Road", "Car", "Sky", "Pedestrian", "Pole", "Bicyclist", "Building", "Car"]
    ids = of_colours(np.array([list(some.values())], np.uint8))[0]
    assert [CLASSES[i].title() for i in ids] == due, "of the published palette, as SegNet merged it"


def test_coloured_frames_have_the_published_split_whatever_folder_they_lie_in(tmp_path):
    make(tmp_path, "colour folders")
    for folder in ("", "_labels"):
        for path in list((tmp_path / f"test{folder}").iterdir()):
            path.rename(tmp_path / f"train{folder}" / path.name)
    assert [Path(name).stem for name in CamVid(tmp_path, "test").names] == list(NAMES["test"])
    assert len(CamVid(tmp_path, "train")) == len(NAMES["train"])
    for path in ((tmp_path / "val" / "a_1.png"), (tmp_path / "val_labels" / "a_1_L.png")):
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"a_1.png is named after no sequence of CamVid"):
        CamVid(tmp_path)


def test_a_fingerprint_changes_with_a_pixel(tmp_path):
    before = CamVid(make(tmp_path, "folders")).fingerprint
    label = CamVid(tmp_path).pairs[0][1]
    Image.fromarray(np.zeros((H, W), np.uint8)).save(label)
    assert CamVid(tmp_path).fingerprint != before


@pytest.mark.parametrize("which, word", [(0, "no image"), (1, "no label")])
def test_image_without_label_and_label_without_image(tmp_path, which, word):
    pair = CamVid(make(tmp_path, "folders"), "test").pairs[1]
    pair[which].unlink()
    with pytest.raises(DataError, match=word) as error:
        CamVid(tmp_path, "test")
    assert str(pair[1 - which]) in str(error.value)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("/a/train/x.png", "line 1, names no image and label"),
        ("/a/../x.png /b/x.png", "line 1, names no image and label"),
        ("/a/train/x.png /a/trainannot/x.png", "x.png is not a file but missing"),
    ],
)
def test_lines_that_name_no_pair(tmp_path, line, match):
    (make(tmp_path, "list") / "train.txt").write_text(line)
    with pytest.raises(DataError, match=match):
        CamVid(tmp_path)


def spoil(path: Path, how: str) -> None:
    if how == "size":
        Image.fromarray(np.zeros((H + 1, W), np.uint8)).save(path)
    elif how == "id":
        Image.fromarray(np.full((H, W), 12, np.uint8)).save(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif how == "jpeg":
        Image.fromarray(np.zeros((H, W), np.uint8)).save(path, "JPEG")
    else:
        Image.fromarray(np.full((H, W, 3), 77, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("how", "layout", "match"),
    [
        ("size", "folders", "is 20 x 13 px, .* is 20 x 12; extract"),
        ("id", "folders", "holds the id 12 in 240 pixels"),
        ("cut", "list", "not readable"),
        ("jpeg", "folders", "no intact PNG"),
        ("colour", "original", "holds a colour outside the palette in 240 pixels"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path, capsys, how, layout, match):
    label = CamVid(make(tmp_path, layout)).pairs[1][1]
    spoil(label, how)
    with pytest.raises(DataError, match=match) as error:
        CamVid(tmp_path)[1]
    assert str(label) in str(error.value) and "\n" not in str(error.value)
    parts = {split: lambda root, split=split: CamVid(root, split) for split in SPLITS}
    found = check(tmp_path, parts, {})
    assert found[0] == str(error.value) and "train: 4 images, the published split has 367" in found
    said = capsys.readouterr().out
    assert "4 problems" in said and "images (the published split has 101)" in said


@pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir, lambda path: os.symlink("absent", path)])
def test_what_is_called_like_an_image_and_is_no_file(tmp_path, in_time, make_it):
    image = CamVid(make(tmp_path, "folders")).pairs[0][0]
    image.unlink()
    make_it(image)
    with pytest.raises(DataError, match=f"{image.name} is not a file"):
        CamVid(tmp_path)


def test_links_may_not_leave_the_root_and_names_are_there_once(tmp_path):
    image = CamVid(make(tmp_path / "in", "folders")).pairs[0][0]
    image.rename(tmp_path / "out.png")
    image.symlink_to(tmp_path / "out.png")
    with pytest.raises(DataError, match="leads out of"):
        CamVid(tmp_path / "in")
    image.unlink()
    for suffix in (".png", ".jpg"):
        Image.new("RGB", (W, H)).save(image.with_suffix(suffix))
    with pytest.raises(DataError, match="same name"):
        CamVid(tmp_path / "in")


@pytest.mark.parametrize("split, match", [("val", "no split 'val'"), ("test", "holds no test frames")])
def test_nothing_there(tmp_path, split, match):
    with pytest.raises(DataError, match=match):
        CamVid(tmp_path, split)
