"""lib.data.streethazards: the layout of the published archives, what its index files may look like, and every error."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from lib import ROOT
from lib.data import DataError
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE, PALETTE, SPLITS, StreetHazards, check

TOWNS = {"train": ("t1", "t2"), "validation": ("t1", "t2"), "test": ("t5", "t6")}
H, W = 12, 20


def make(root: Path, mode: str = "RGBA", suffix: str = ".png", frames: int = 2) -> Path:
    """A tiny download: `frames` frames a town, the red channel of each image is ten times its label's index."""
    rng = np.random.default_rng(0)
    for split, (part, folder, _) in SPLITS.items():
        for town in TOWNS[split]:
            for i in range(frames):
                label = rng.integers(0, 14 if split == "test" else 13, (H, W)).astype(np.uint8)
                rgba = np.stack(
                    [label * 10, np.full_like(label, i), np.full_like(label, 7), np.full_like(label, 9)], -1
                )
                for kind, picture, end in (("images", rgba, suffix), ("annotations", label + 1, ".png")):
                    path = root / part / kind / folder / town / f"{i:03d}{end}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image = Image.fromarray(picture)
                    (image.convert(mode) if kind == "images" else image).save(path)
    return root


def index(root: Path, split: str, below: Path, lines: bool = False) -> Path:
    """Write the index of a split with paths relative to `below`, newest frame first, and return it."""
    pairs = StreetHazards(root, split).pairs[::-1]
    keys = ("fpath_img", "fpath_segm")
    rows = [
        {"dbName": "StreetHazards", "width": W, "height": H}
        | {k: p.relative_to(below).as_posix() for k, p in zip(keys, pair, strict=True)}
        for pair in pairs
    ]
    path = root / SPLITS[split][0] / f"{split}.odgt"
    path.write_text("\n".join(json.dumps(r) for r in rows) if lines else json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path):
    return make(tmp_path / "my images" / "images")


# what an item is


def test_item_is_a_float_image_and_a_long_label(root):
    for split, (part, folder, _) in SPLITS.items():
        data = StreetHazards(root, split)
        assert len(data) == 4 and data.towns == [t for t in TOWNS[split] for _ in range(2)]
        assert data.names[0] == f"{part}/images/{folder}/{TOWNS[split][0]}/000.png"
        for image, label in data:
            assert image.dtype == torch.float32 and image.shape == (3, H, W) and type(image) is torch.Tensor
            assert label.dtype == torch.int64 and label.shape == (H, W) and type(label) is torch.Tensor
            assert torch.equal((image[0] * 255).round().long(), label * 10), "image and label are of different frames"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pixel_modes(tmp_path, mode):
    image, _ = StreetHazards(make(tmp_path, mode), "test")[0]
    assert image.shape == (3, H, W) and 0 < image.max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".JPG"])
def test_suffix_of_images_may_differ_from_that_of_labels(tmp_path, suffix):
    assert len(StreetHazards(make(tmp_path, "RGB", suffix), "validation")) == 4


def test_batches_in_worker_processes(root):
    (image, label), _ = list(DataLoader(StreetHazards(root, "train"), batch_size=2, num_workers=2))
    assert image.shape == (2, 3, H, W) and label.shape == (2, H, W)


def test_classes_and_palette():
    assert len(CLASSES) == len(PALETTE) == 14 and CLASSES[ANOMALY] == "anomaly" and CLASSES[7] == "road"
    assert PALETTE.dtype == np.uint8 and IGNORE not in range(14)


@pytest.mark.parametrize(
    "seen",  # linear RGB as dichromats see it: Machado, Oliveira and Fernandes, IEEE TVCG 2009, severity 1
    {
        "normal": np.eye(3),
        "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
        "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
        "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
    }.items(),
    ids=lambda item: item[0],
)
def test_palette_keeps_classes_apart(seen):
    from skimage.color import rgb2lab

    linear = (PALETTE / 255.0) ** 2.2
    lab = rgb2lab((np.clip(linear @ np.array(seen[1]).T, 0, 1) ** (1 / 2.2))[None])[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(14)
    assert distance.min() > 20, CLASSES[int(distance.min(1).argmin())]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), i=st.integers(0, 3))
def test_one_draw_moves_image_and_label_together(tiny, seed, i):
    fill = {tv_tensors.Mask: IGNORE, "others": 0}
    moves = [v2.RandomHorizontalFlip(0.5), v2.RandomCrop((9, 14), pad_if_needed=True, padding=3, fill=fill)]
    torch.manual_seed(seed)
    image, label = StreetHazards(tiny, "train")[i]
    image, label = v2.Compose(moves)(tv_tensors.Image(image), tv_tensors.Mask(label))
    inside = label != IGNORE
    assert image.shape[1:] == label.shape == (9, 14) and inside.any()
    assert torch.equal((image[0] * 255).round().long()[inside], label[inside] * 10)
    assert (image[:, ~inside] == 0).all(), "what is filled is not labelled as ignored"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return make(tmp_path_factory.mktemp("tiny"))


# the index


@pytest.mark.parametrize("lines", [False, True], ids=["one JSON list", "an object a line"])
@pytest.mark.parametrize("below", ["part", "root"])
@pytest.mark.parametrize("split", SPLITS)
def test_index_in_both_forms_and_relative_to_both_folders(root, split, below, lines):
    walked = StreetHazards(root, split).pairs
    index(root, split, root if below == "root" else root / SPLITS[split][0], lines)
    assert StreetHazards(root, split).pairs == walked[::-1], "the order of the index is not kept"


def test_index_decides_which_frames_there_are(root):
    path = index(root, "train", root)
    path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    assert len(StreetHazards(root, "train")) == 1 and len(StreetHazards(root, "validation")) == 4


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"fpath_img": "a.png"}]', "null", '"a"', "\n[{}]"], ids=lambda t: repr(t)
)
def test_damaged_index_is_named(root, text):
    path = root / "train" / "train.odgt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"train\.odgt is not an index"):
        StreetHazards(root, "train")


@pytest.mark.parametrize("name", ["../outside.png", "/etc/outside.png", "train/../../outside.png", "..\\outside.png"])
def test_index_may_not_leave_the_root(root, name):
    (root.parent / "outside.png").touch()
    path = index(root, "train", root)
    path.write_text(json.dumps([{"fpath_img": name, "fpath_segm": name}]))
    with pytest.raises(DataError, match="outside"):
        StreetHazards(root, "train")


def test_index_naming_an_absent_file(root):
    index(root, "test", root)
    victim = StreetHazards(root, "test").pairs[1][1]
    victim.unlink()
    with pytest.raises(DataError, match=f"{victim.parent.name}/{victim.name}', which is neither"):
        StreetHazards(root, "test")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"[" * 100_000 + b"]" * 100_000, r"not an index of frames \(ValueError: nested too deeply\)"),
        (b'[{"fpath_img": ' + b"9" * 5000 + b"}]", "not an index of frames"),
        (b'[{"fpath_img": ["a.png"], "fpath_segm": {}}]', "not an index of frames"),
        (json.dumps([{"fpath_img": "x" * 5000, "fpath_segm": "y"}]).encode(), "names 'x{200}', which is neither"),
        (json.dumps([{"fpath_img": "\ud800\n\0", "fpath_segm": "y"}]).encode(), r"names '\\ud800\\n\\x00', which"),
        (json.dumps([{"fpath_img": "images", "fpath_segm": "y"}]).encode(), "train/images is not a file but a folder"),
        (b"\xff\xfe{}", "not an index of frames"),
        (b" " * (2**24 + 1), "train.odgt has more than 16777216 bytes"),
    ],
    ids=["deep", "5,000 digits", "no text", "5,000 letters", "no name", "folder", "another encoding", "long"],
)
def test_indexes_that_attack(root, in_time, content, match):
    (root / "train" / "train.odgt").write_bytes(content)
    with pytest.raises(DataError, match=match) as error:
        StreetHazards(root, "train")
    assert len(str(error.value)) < 800 and "\n" not in str(error.value) and str(error.value).encode()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("absent", path)])
def test_an_index_that_is_no_file(root, in_time, make):
    make(root / "train" / "train.odgt")
    with pytest.raises(DataError, match="train.odgt cannot be read: "):
        StreetHazards(root, "train")


def test_a_separator_inside_a_name_does_not_end_the_line(root):
    for kind in ("images", "annotations"):
        (root / f"train/{kind}/training/t2").rename(root / f"train/{kind}/training/t\u2028")
    path = index(root, "train", root)
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")), ensure_ascii=False), "utf-8")
    assert set(StreetHazards(root, "train").towns) == {"t1", "t\u2028"}


# folders, links and pipes


@pytest.mark.parametrize("listed", [True, False], ids=["index", "folders"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("absent", path)])
def test_what_is_called_like_an_image_and_is_no_file(root, in_time, make, listed):
    if listed:
        index(root, "train", root)
    image = StreetHazards(root, "train").pairs[1][0]
    image.unlink()
    make(image)
    with pytest.raises(DataError, match=f"{image.name} is not a file but a folder, a pipe or a dead link"):
        StreetHazards(root, "train")
    assert check(root)


@pytest.mark.parametrize("listed", [True, False], ids=["index", "folders"])
@pytest.mark.parametrize("what", ["t1/000.png", "t1"])
def test_links_may_not_leave_the_root(root, listed, what):
    if listed:
        index(root, "train", root)
    inside, outside = root / "train/images/training" / what, root.parent / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(DataError, match=r"00\d.png leads out of" if listed or "png" in what else "t1 leads out of"):
        StreetHazards(root, "train")


def test_a_link_to_everything_is_not_followed(root, in_time):
    (root / "train/images/training/all").symlink_to("/")
    with pytest.raises(DataError, match="training/all leads out of"):
        StreetHazards(root, "train")


def test_a_town_behind_a_link_and_a_root_behind_a_link(root):
    before = StreetHazards(root, "train")
    for kind in ("images", "annotations"):
        town = root / f"train/{kind}/training/t1"
        town.rename(root / f"{kind} of t1")
        town.symlink_to(root / f"{kind} of t1")
    (root.parent / "link").symlink_to(root)
    for folder in (root, root.parent / "link"):
        assert StreetHazards(folder, "train").names == before.names
        assert StreetHazards(folder, "train").fingerprint == before.fingerprint


@pytest.mark.parametrize("target", [".", "..", "t2"])
def test_links_in_circles(root, in_time, target):
    (root / "train/images/training/round").symlink_to(target)
    with pytest.raises(DataError, match="are one folder; keep one"):
        StreetHazards(root, "train")


def test_hidden_folders_are_no_towns(root):
    before = StreetHazards(root, "train").fingerprint
    for kind in ("images", "annotations"):
        for hidden in (".ipynb_checkpoints", "t1/.ipynb_checkpoints"):
            shutil.copytree(root / f"train/{kind}/training/t2", root / f"train/{kind}/training" / hidden)
    assert StreetHazards(root, "train").fingerprint == before


@pytest.mark.parametrize("folder", ["train/images/training/t3", "train/annotations/training/t1/more"])
def test_empty_folders_are_named(root, folder):
    (root / folder).mkdir()
    with pytest.raises(DataError, match=f"{folder} is empty; extract the archive again"):
        StreetHazards(root, "train")


def test_a_folder_that_may_not_be_read_is_named(root, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("t2"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="t2 cannot be read .Permission denied"):
        StreetHazards(root, "train")


# errors name the file


def test_a_jpeg_is_no_label(root):
    data = StreetHazards(root, "test")
    label = data.pairs[0][1]
    Image.open(label).convert("L").save(label, "JPEG", quality=100)
    with pytest.raises(DataError, match=r"not readable \(it is no intact PNG\)") as error:
        data[0]
    assert str(label) in str(error.value) and str(error.value) in check(root)


def test_a_deep_grey_image_is_no_white_one(root):
    data = StreetHazards(root, "test")
    Image.fromarray(np.linspace(0, 65535, H * W).astype(np.uint16).reshape(H, W)).save(data.pairs[0][0])
    assert abs(float(data[0][0].mean()) - 0.5) < 0.01 and check(root) == []


@pytest.mark.parametrize("which, word", [(0, "no image"), (1, "no label")])
def test_image_without_label_and_label_without_image(root, which, word):
    pair = StreetHazards(root, "train").pairs[2]
    pair[which].unlink()
    with pytest.raises(DataError, match=word) as error:
        StreetHazards(root, "train")
    assert str(pair[1 - which]) in str(error.value)


def test_same_name_twice(root):
    image = StreetHazards(root, "train").pairs[0][0]
    Image.open(image).convert("RGB").save(image.with_suffix(".jpg"))
    with pytest.raises(DataError, match="same name"):
        StreetHazards(root, "train")


def test_unknown_split_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match="no split 'val'"):
        StreetHazards(tmp_path, "val")
    with pytest.raises(DataError, match="holds no test frames"):
        StreetHazards(tmp_path, "test")


@pytest.mark.parametrize("value", [0, 15, 255])
def test_id_out_of_range(root, value):
    data = StreetHazards(root, "test")
    pixels = np.array(Image.open(data.pairs[3][1]))
    pixels[4, 5] = value
    Image.fromarray(pixels).save(data.pairs[3][1])
    with pytest.raises(DataError, match=f"holds the id {value} in 1 pixels") as error:
        data[3]
    assert str(data.pairs[3][1]) in str(error.value)


@pytest.mark.parametrize("split, fine", [("train", False), ("validation", False), ("test", True)])
def test_anomaly_outside_the_test_split(root, split, fine):
    data = StreetHazards(root, split)
    Image.fromarray(np.full((H, W), ANOMALY + 1, np.uint8)).save(data.pairs[0][1])
    if fine:
        assert (data[0][1] == ANOMALY).all()
    else:
        with pytest.raises(DataError, match="anomaly") as error:
            data[0]
        assert str(data.pairs[0][1]) in str(error.value)


def test_sizes_that_differ(root):
    data = StreetHazards(root, "train")
    Image.new("L", (W, H + 1), 1).save(data.pairs[0][1])
    with pytest.raises(DataError, match="20 x 13 px") as error:
        data[0]
    assert all(str(path) in str(error.value) for path in data.pairs[0])


def test_label_with_colours(root):
    data = StreetHazards(root, "train")
    Image.new("RGB", (W, H), (1, 1, 1)).save(data.pairs[0][1])
    with pytest.raises(DataError, match="pixel mode RGB") as error:
        data[0]
    assert str(data.pairs[0][1]) in str(error.value)


@pytest.mark.parametrize("which", [0, 1], ids=["image", "label"])
@pytest.mark.parametrize("damage", [b"", b"not a picture", None], ids=["empty", "garbage", "truncated"])
def test_unreadable_file(root, which, damage):
    data = StreetHazards(root, "train")
    path = data.pairs[1][which]
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    with pytest.raises(DataError, match="not readable") as error:
        data[1]
    assert str(path) in str(error.value)


# statistics, fingerprint, check


def test_statistics_count_stored_labels(root):
    data = StreetHazards(root, "test")
    for _, label in data.pairs:
        Image.fromarray(np.full((H, W), 8, np.uint8)).save(label)
    Image.fromarray(np.repeat(np.uint8([8, 14]), H * W // 2).reshape(H, W)).save(data.pairs[0][1])
    found = data.statistics()
    assert list(found) == list(CLASSES)
    assert found["road"] == {"pixels": 4 * H * W - H * W // 2, "share": 0.875, "images": 4}
    assert found["anomaly"] == {"pixels": H * W // 2, "share": 0.125, "images": 1}
    assert found["car"] == {"pixels": 0, "share": 0, "images": 0}


@pytest.mark.parametrize("which", [0, 1])
def test_fingerprint_follows_content_and_names(root, tmp_path, which):
    before = StreetHazards(root, "train").fingerprint
    assert before == StreetHazards(make(tmp_path / "elsewhere"), "train").fingerprint
    path = StreetHazards(root, "train").pairs[3][which]
    pixels = np.array(Image.open(path))
    pixels[0, 0] = pixels[0, 0] % 13 + 1
    Image.fromarray(pixels).save(path)
    changed = StreetHazards(root, "train").fingerprint
    assert changed != before
    for image_or_label in StreetHazards(root, "train").pairs[3]:
        image_or_label.rename(image_or_label.with_name("zzz.png"))
    assert StreetHazards(root, "train").fingerprint not in (before, changed)


def test_check_of_a_sound_download(root, capsys):
    assert check(root) == []
    report = capsys.readouterr().out
    assert "train: 4 frames (the real set has 5125), towns t1, t2" in report
    assert "20 x 12 px" in report and "no problems" in report and "1031" in report and "1500" in report


def test_check_reports_every_problem_and_goes_on(root, capsys):
    data = StreetHazards(root, "train")
    data.pairs[0][0].write_bytes(b"")
    Image.new("L", (W, H), 99).save(data.pairs[2][1])
    (root / "test" / "test.odgt").write_text("{")
    (root / "train/images/validation/t1").rename(root / "train/images/validation/t5")
    problems = check(root)
    assert len(problems) == 4 and "4 problems" in capsys.readouterr().out
    assert [str(p) in text for p, text in zip([data.pairs[0][0], data.pairs[2][1]], problems, strict=False)] == [
        True
    ] * 2


def test_check_finds_shared_towns_and_a_test_split_without_anomalies(root):
    for kind in ("images", "annotations"):
        (root / f"test/{kind}/test/t5").rename(root / f"test/{kind}/test/t1")
    for _, label in StreetHazards(root, "test").pairs:
        Image.new("L", (W, H), 3).save(label)
    problems = check(root)
    assert len(problems) == 2 and "no anomaly" in problems[0] and "towns t1" in problems[1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # runpy: the module is imported already
def test_check_from_the_command_line(root, tmp_path, monkeypatch):
    for arguments, code in (([root], 0), ([tmp_path / "none"], 1), ([], "usage: python -m lib.data.streethazards DIR")):
        monkeypatch.setattr(sys, "argv", ["streethazards", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_module("lib.data.streethazards", run_name="__main__")
        assert end.value.code == code


# the stand-in that is committed

STAND_IN = ROOT / "data" / "streethazards"


@pytest.fixture(scope="module")
def stand_in():
    return {split: StreetHazards(split=split) for split in SPLITS}


@pytest.fixture(scope="module")
def stored(stand_in):
    """Labels as stored, uint8 `[frames, H, W]`, by split; reading them checks ids, and anomalies out of place."""
    return {split: np.stack([data.label(i).numpy() for i in range(len(data))]) for split, data in stand_in.items()}


@pytest.fixture(scope="module")
def described():
    return json.loads((STAND_IN / "frames.json").read_text(encoding="utf-8"))


def test_stand_in_has_the_promised_frames(stand_in, stored):
    assert {split: len(data) for split, data in stand_in.items()} == {"train": 120, "validation": 30, "test": 60}
    assert all((STAND_IN / SPLITS[split][0] / f"{split}.odgt").is_file() for split in SPLITS)
    assert {labels.shape[1:] for labels in stored.values()} == {(360, 640)}
    for data in stand_in.values():
        assert all(Image.open(image).size == (640, 360) for image, _ in data.pairs)
        assert all(Image.open(label).mode == "L" for _, label in data.pairs), "labels are stored as in the real set"
        image, label = data[len(data) - 1]
        assert 0 <= image.min() < 0.2 and 0.8 < image.max() <= 1 and label.max() <= ANOMALY


def test_stand_in_is_small():
    files = [f for f in STAND_IN.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 12e6 and max(f.stat().st_size for f in files) < 1e6


def test_index_of_the_stand_in_lists_what_the_folders_hold(stand_in):
    for split, data in stand_in.items():
        part, folder, _ = SPLITS[split]
        rows = json.loads((STAND_IN / part / f"{split}.odgt").read_text(encoding="utf-8"))
        assert all(set(row) == {"dbName", "width", "height", "fpath_img", "fpath_segm"} for row in rows)
        text = (STAND_IN / part / f"{split}.odgt").read_text(encoding="utf-8")
        assert text.count("\n") == 1, "one line, as published"
        on_disk = {p for p in (STAND_IN / part / "images" / folder).rglob("*") if p.is_file()}
        assert on_disk == {image for image, _ in data.pairs}


def test_test_towns_are_not_training_towns(stand_in):
    towns = {split: set(data.towns) for split, data in stand_in.items()}
    assert towns == {"train": {"t1", "t2"}, "validation": {"t1", "t2"}, "test": {"t5", "t6"}}


def test_no_two_frames_are_the_same(stand_in):
    contents = [image.read_bytes() for data in stand_in.values() for image, _ in data.pairs]
    assert len(set(contents)) == len(contents)


def test_every_class_is_learnable_from_train(stored):
    """Shares roughly those of the real set: sky and road about a third each, then houses, plants, pavement."""
    share = np.bincount(stored["train"].ravel(), minlength=14) / stored["train"].size
    frames = np.array([(stored["train"] == c).any((1, 2)).sum() for c in range(14)])
    assert (share[:ANOMALY] > 0.0005).all() and share[ANOMALY] == 0
    assert (frames[:ANOMALY] >= 60).all(), "a class is in fewer than half of the frames"
    assert 0.15 < share[0] < 0.4 and 0.25 < share[7] < 0.4
    assert all(share[c] > 0.02 for c in (1, 8, 9, 11)) and all(share[c] < 0.05 for c in (2, 3, 4, 5, 6, 10, 12))


def test_pedestrians_are_rare_in_test(stored):
    seen = {split: (labels == 4).any((1, 2)).mean() for split, labels in stored.items()}
    assert seen["train"] > 0.6 and seen["test"] < 0.3


def test_anomalies_cover_about_a_hundredth_of_the_test_split(stored):
    share = (stored["test"] == ANOMALY).mean((1, 2))
    assert 0.007 < share.mean() < 0.015 and share.min() > 0.001 and share.max() < 0.06


def test_anomalies_are_whole_and_stand_on_the_ground(stand_in, stored, described):
    for name, label in zip(stand_in["test"].names, stored["test"], strict=True):
        y, x = np.nonzero(label == ANOMALY)
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert described[name]["bbox"] == box and described[name]["pixels"] == len(x), name
        assert box[0] >= 2 and box[1] >= 2 and box[2] <= 638 and box[3] <= 358, f"{name}: cut by the frame"
        lowest = x[y == y.max()]
        below = set(label[y.max() + 1, lowest].tolist())
        assert below & {6, 7, 8}, f"{name}: over {[CLASSES[c] for c in below]}"


def test_anomalies_are_of_many_kinds(stand_in, described):
    kinds = [described[name]["kind"] for name in stand_in["test"].names]
    assert len(set(kinds)) >= 12 and max(kinds.count(k) for k in kinds) <= 5
    assert {described[name]["surface"] for name in stand_in["test"].names} == {"road", "pavement"}
    assert not any("kind" in described[name] for s in ("train", "validation") for name in stand_in[s].names)


def test_labels_lie_on_the_images(stand_in):
    """Colours vary least within classes where the label is not shifted, and more with every shift by one pixel."""
    total = {shift: 0.0 for shift in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))}
    lowest = 0
    chosen = [(data, i) for data in stand_in.values() for i in range(0, len(data), 15)]
    for data, i in chosen:
        image, label = (t.numpy() for t in data[i])
        spread = {}
        for dy, dx in total:
            moved, seen = label[1 + dy : 359 + dy, 1 + dx : 639 + dx].ravel(), image[:, 1:359, 1:639].reshape(3, -1)
            count = np.maximum(np.bincount(moved, minlength=14), 1)
            sums = [np.bincount(moved, channel, 14) for channel in seen]
            spread[dy, dx] = sum((c**2).sum() - (s**2 / count).sum() for c, s in zip(seen, sums, strict=True))
            total[dy, dx] += spread[dy, dx]
        lowest += min(spread, key=spread.get) == (0, 0)
    assert min(total, key=total.get) == (0, 0), total
    assert lowest >= 0.9 * len(chosen), f"only {lowest} of {len(chosen)} frames"


def test_check_finds_nothing_wrong_with_the_stand_in(capsys):
    assert check(STAND_IN) == []
    assert "test: 60 frames (the real set has 1500), towns t5, t6" in capsys.readouterr().out


def test_data_card_has_the_numbers_of_the_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "data" / "make"))
    import street_card

    card = (STAND_IN / "README.md").read_text(encoding="utf-8")
    block = card.split(street_card.MARK)[1].split(street_card.END)[0].strip()
    assert block == street_card.table(STAND_IN).strip(), "run: python data/make/street_card.py"
    for fact in ("not StreetHazards", "MIT", "5125", "1031", "1500", "md5"):
        assert fact in card
