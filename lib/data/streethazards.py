"""StreetHazards: street scenes with twelve kinds of things and a background, and at test time something that fits none.

Layout and label ids are those of the published archives (Hendrycks et al., Scaling Out-of-Distribution Detection for
Real-World Settings, ICML 2022); data/streethazards holds a rendered stand-in of the same layout. Introduced in
notebooks/streethazards.ipynb. `python -m lib.data.streethazards DIR` verifies a whole download.
"""

import hashlib
import os
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.utils.data import Dataset

from lib import ROOT
from lib.data.photos import open_image, open_label
from lib.files import DataError, parse_json, read_file

#: Index 0..13; the files hold index + 1. `unlabeled` is a trained class like any other: nearly all of it is sky.
CLASSES = (
    "unlabeled", "building", "fence", "other", "pedestrian", "pole", "road line",
    "road", "sidewalk", "vegetation", "car", "wall", "traffic sign", "anomaly",
)  # fmt: skip
ANOMALY = 13  # index of the class that only the test split holds
IGNORE = 255  # what a transform must fill a label with; no file holds it

#: One RGB colour a class. Chosen so that any two stay apart (CIE76 distance above 20) with normal vision, protanopia,
#: deuteranopia and tritanopia; the anomaly is the one saturated red.
PALETTE = np.array(
    [
        (161, 195, 255), (99, 108, 63), (206, 154, 124), (156, 111, 204), (255, 24, 145), (90, 52, 124),
        (253, 255, 248), (34, 37, 58), (192, 192, 209), (23, 156, 46), (19, 59, 170), (126, 74, 91),
        (250, 220, 50), (243, 25, 0),
    ],
    dtype=np.uint8,
)  # fmt: skip

#: Split: part of the archive, folder inside images/ and annotations/, and the number of frames of the real set.
SPLITS = {
    "train": ("train", "training", 5125),
    "validation": ("train", "validation", 1031),
    "test": ("test", "test", 1500),
}
SUFFIXES = (".png", ".jpg", ".jpeg")  # the real set is PNG; the stand-in keeps its images as JPEG to stay small


class StreetHazards(Dataset):
    """One split: item i is an image, float32 `[3, H, W]` in 0..1, and its label, int64 `[H, W]` with ids 0..13.

    Introduced in notebooks/streethazards.ipynb.

    Args:
        root: the folder that holds `train/` and `test/`.
        split: train, validation or test.

    Attributes:
        name: "streethazards", with "stand-in" where the record of its making lies in root.
        pairs: (image, label) paths, in the order of the .odgt index, or sorted where there is none. Links are followed
            as long as they stay below root; what starts with a dot is left out.
        names: image paths below root, with forward slashes.
        towns: the folder of each image; the test towns appear in no other split.

    Raises:
        DataError: unknown split, nothing there, an empty folder, damaged index, an image without its label or the
            reverse, a pipe or a folder that is called like an image, a link out of root; and, when an item is read: an
            unreadable file, sizes that differ, ids out of range, an anomaly outside the test split.
    """

    def __init__(self, root: str | Path = ROOT / "data" / "streethazards", split: str = "train"):
        if split not in SPLITS:
            raise DataError(f"StreetHazards has no split {split!r}; give one of {', '.join(SPLITS)}")
        self.root, self.split = Path(root), split
        self.name = "streethazards stand-in" if (self.root / "making.json").exists() else "streethazards"
        part, folder, _ = SPLITS[split]
        index = self.root / part / f"{split}.odgt"
        self.pairs = _listed(index, self.root) if os.path.lexists(index) else _walked(self.root, part, folder)
        if not self.pairs:
            raise DataError(f"{self.root} holds no {split} frames; data/streethazards/README.md says what goes where")
        self.names = [image.relative_to(self.root).as_posix() for image, _ in self.pairs]
        self.towns = [image.parent.name for image, _ in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_path, label_path = self.pairs[index]
        image, label = read_image(image_path), self.label(index)
        if image.shape[1:] != label.shape:
            (h, w), (hh, ww) = image.shape[1:], label.shape
            raise DataError(f"{label_path} is {ww} x {hh} px, {image_path} is {w} x {h}; extract the archive again")
        return image, label.long()

    def label(self, index: int) -> torch.Tensor:
        """The label of frame `index` before any transform, uint8 `[H, W]` with ids 0..13."""
        label = read_label(self.pairs[index][1])
        if self.split != "test" and (label == ANOMALY).any():
            raise DataError(f"{self.pairs[index][1]} holds anomaly pixels, which only the test split may")
        return label

    def statistics(self) -> dict[str, dict[str, float]]:
        """Per class, over the labels as stored: `pixels`, `share` of all pixels in 0..1, and `images` that hold it."""
        labels = (self.label(i).flatten() for i in range(len(self)))
        counts = torch.stack([torch.bincount(label, minlength=len(CLASSES)) for label in labels])
        pixels, images = counts.sum(0), (counts > 0).sum(0)
        return {
            name: {"pixels": int(pixels[c]), "share": float(pixels[c] / pixels.sum()), "images": int(images[c])}
            for c, name in enumerate(CLASSES)
        }

    @property
    def fingerprint(self) -> str:
        """Split, size and a short hash over names, sizes and the ends of all files; recorded with every run.

        A PNG ends with the checksum of its pixels and a JPEG with the last of its entropy code, so the ends change
        with the content and megabytes need not be read.
        """
        digest = hashlib.sha256()
        for path in (p for pair in self.pairs for p in pair):
            digest.update(f"{path.relative_to(self.root).as_posix()} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                file.seek(-min(64, path.stat().st_size), 2)
                digest.update(file.read())
        return f"streethazards {self.split} n={len(self)} sha256={digest.hexdigest()[:12]}"


def read_image(path: Path) -> torch.Tensor:
    """An image file as float32 `[3, H, W]` in 0..1; transparency is dropped. Raises DataError if it is not readable."""
    pixels = np.array(open_image(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def read_label(path: Path) -> torch.Tensor:
    """A label file (8-bit, ids 1..14) as uint8 `[H, W]` of ids 0..13. Raises DataError if it is anything else."""
    pixels = open_label(path)
    wrong = pixels[(pixels < 1) | (pixels > len(CLASSES))]
    if wrong.size:
        raise DataError(f"{path} holds the id {wrong[0]} in {wrong.size} pixels; the ids are 1..{len(CLASSES)}")
    return torch.from_numpy(pixels - np.uint8(1))


def check(root: str | Path) -> list[str]:
    """Read every file of every split and print a report: counts, towns, sizes, class shares, and what is wrong.

    Returns the problems, one sentence each; none means that all is well. Introduced in notebooks/streethazards.ipynb.
    """
    problems, towns = [], {}
    for split, (_, _, real) in SPLITS.items():
        try:
            data = StreetHazards(root, split)
        except DataError as error:
            problems.append(str(error))
            print(f"{split}: not usable")
            continue
        towns[split] = set(data.towns)
        sizes, pixels = set(), np.zeros(len(CLASSES), np.int64)
        for i in range(len(data)):
            try:
                image, label = data[i]
            except DataError as error:
                problems.append(str(error))
                continue
            sizes.add(f"{image.shape[2]} x {image.shape[1]}")
            pixels += np.bincount(label.flatten(), minlength=len(CLASSES))
        share = 100 * pixels / max(pixels.sum(), 1)
        print(f"{split}: {len(data)} frames (the real set has {real}), towns {', '.join(sorted(towns[split]))}")
        print(f"  {', '.join(sorted(sizes))} px; {data.fingerprint}")
        print("  % of pixels: " + ", ".join(f"{n} {s:.2f}" for n, s in zip(CLASSES, share, strict=True)))
        if split == "test" and not pixels[ANOMALY] and not problems:
            problems.append(f"{data.root} has no anomaly in its test split; these may be training labels")
    shared = towns.get("test", set()) & (towns.get("train", set()) | towns.get("validation", set()))
    if shared:
        problems.append(f"{root} has the towns {', '.join(sorted(shared))} both in test and elsewhere")
    print(f"{len(problems)} problems" if problems else "no problems")
    for problem in problems:
        print(f"  {problem}")
    return problems


def _listed(index: Path, root: Path) -> list[tuple[Path, Path]]:
    """The pairs that an .odgt names: one JSON list on one line, as published, or one object a line."""
    text = read_file(index)
    try:
        rows = [parse_json(line) for line in text.splitlines() if line.strip()]
        rows = [row for entry in rows for row in (entry if isinstance(entry, list) else [entry])]
        named = [PurePosixPath(row[key].replace("\\", "/")) for row in rows for key in ("fpath_img", "fpath_segm")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "extract it again, or delete it and the folders are read instead"
        raise DataError(f"{index} is not an index of frames ({type(error).__name__}: {error}); {remedy}") from error
    paths = [_resolve(name, index, root) for name in named]
    return list(zip(paths[::2], paths[1::2], strict=True))


def _resolve(name: PurePosixPath, index: Path, root: Path) -> Path:
    """The file that an index names, relative to the folder of the index or to the data root: both are in use."""
    shown = repr(str(name)[:200])
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{index} names {shown}, which may lie outside {root}; paths must be relative and go down")
    for folder in (index.parent, root):
        if os.path.lexists(folder / name):
            return _regular(folder / name, root)
    raise DataError(f"{index} names {shown}, which is neither below {index.parent} nor below {root}; extract it again")


def _real(path: Path, root: Path) -> str:
    """Where a path leads, which must be below root: else the index, or the archive, reads what is none of the data."""
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(root)):
        raise DataError(f"{path} leads out of {root}, to {real}; put a copy in its place")
    return real


def _regular(path: Path, root: Path) -> Path:
    if not os.path.isfile(_real(path, root)):
        raise DataError(f"{path} is not a file but a folder, a pipe or a dead link; extract the archive again")
    return path


def _walked(root: Path, part: str, folder: str) -> list[tuple[Path, Path]]:
    """The pairs found in the folders: same path below `images/<folder>` and `annotations/<folder>`, any suffix."""
    images, labels = (_files(root / part / kind / folder, root) for kind in ("images", "annotations"))
    for has, lacks, kind in ((images, labels, "label"), (labels, images, "image")):
        missing = sorted(has.keys() - lacks.keys())
        if missing:
            raise DataError(f"{has[missing[0]]} has no {kind} ({len(missing)} such files); extract the archive again")
    return [(images[key], labels[key]) for key in sorted(images)]


def _files(folder: Path, root: Path) -> dict[str, Path]:
    """Image files below a folder by relative path without suffix: never a text replaced in the whole path."""
    found: dict[str, Path] = {}
    seen: dict[str, Path] = {}

    def unreadable(error: OSError) -> None:
        if Path(error.filename) != folder:
            raise DataError(f"{error.filename} cannot be read ({error.strerror}); make it readable") from error

    for place, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        place = Path(place)
        if (first := seen.setdefault(_real(place, root), place)) != place:
            raise DataError(f"{place} and {first} are one folder; keep one of the two")
        if not folders and not names:
            raise DataError(f"{place} is empty; extract the archive again, or delete the folder")
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(folders + names):
            if Path(name).suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            path = _regular(place / name, root)
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise DataError(f"{path} and {found[key].name} have the same name; keep one of the two")
            found[key] = path
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m lib.data.streethazards DIR")
    raise SystemExit(1 if check(sys.argv[1]) else 0)
