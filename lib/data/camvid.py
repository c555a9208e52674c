"""CamVid: photographs of streets from a car, with eleven kinds of things and void.

Brostow, Fauqueur and Cipolla 2009, Semantic object classes in video. Read as public copies have it: ids 0..10 and 11
for void in folders (train, trainannot, ...) or lists (train.txt, ...), or the original's 32 colours. None of it ships;
data/README.md says where it is to be had. Introduced in notebooks/streethazards.ipynb.
`python -m lib.data.camvid DIR` verifies a folder.
"""

import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.utils.data import Dataset

from lib.data.photos import open_image, open_label
from lib.data.streethazards import IGNORE, StreetHazards, read_image
from lib.files import DataError, read_file

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = len(CLASSES)  # in the files; items have IGNORE in its place
#: Split: its folder, its list, and the number of frames of the published split.
SPLITS = {"train": ("train", 367), "validation": ("val", 101), "test": ("test", 233)}
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

#: The published palette of 32 classes by the class here that takes them, void aside: the grouping of SegNet
#: (Badrinarayanan et al. 2017, arXiv:1511.00561).
COLOURS = (
    ((128, 128, 128),),  # Sky
    ((128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)),  # Building, Archway, Bridge, Tunnel, Wall
    ((192, 192, 128), (0, 0, 64)),  # Column_Pole, TrafficCone
    ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # Sidewalk, ParkingBlock, RoadShoulder
    ((128, 128, 0), (192, 192, 0)),  # Tree, VegetationMisc
    ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # SignSymbol, Misc_Text, TrafficLight
    ((64, 64, 128),),  # Fence
    # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),  # Pedestrian, Child, CartLuggagePram, Animal
    ((0, 128, 192), (192, 0, 192)),  # Bicyclist, MotorcycleScooter
    ((0, 0, 0),),  # Void
)


class Pairs(Dataset):
    """Item i is an image, float32 `[3, H, W]` in 0..1, and its label, int64 `[H, W]`; sizes may differ between items.

    Attributes:
        pairs: (image, label) paths, sorted or as listed; a subclass may add more that items are made of.
        names: image paths below root, with forward slashes.

    Raises:
        DataError: when an item is read: an unreadable file, sizes that differ, unknown ids.
    """

    def __init__(self, root: str | Path, name: str, split: str, pairs: list[tuple[Path, ...]]):
        self.root, self.name, self.split, self.pairs = Path(root), name, split, pairs
        self.names = [image.relative_to(self.root).as_posix() for image, *_ in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self.image(index), self.label(index)
        if image.shape[1:] != label.shape:
            (h, w), (hh, ww), (one, other) = image.shape[1:], label.shape, self.pairs[index][:2]
            raise DataError(f"{other} is {ww} x {hh} px, {one} is {w} x {h}; extract the archive again")
        return image, label.long()

    def image(self, index: int) -> torch.Tensor:
        """Image `index`, float32 `[3, H, W]` in 0..1."""
        return read_image(self.pairs[index][0])

    def label(self, index: int) -> torch.Tensor:
        """The label of image `index`, uint8 `[H, W]`."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """As of `StreetHazards`, under the name of this set, over all files of `pairs`."""
        return StreetHazards.fingerprint.fget(self).replace("streethazards", self.name, 1)


class CamVid(Pairs):
    """One split: labels have the ids of `CLASSES`, and `IGNORE` for void. Introduced in notebooks/streethazards.ipynb.

    Args:
        root: the folder with one of: `train.txt`, `val.txt` and `test.txt`, whose lines name an image and its label;
            `train`, `val` and `test` beside `trainannot` and so on; the same beside `train_labels` and so on, colours
            in NAME_L.png; or `701_StillsRaw_full` and `LabeledApproved_full`, the original. Where labels are colours,
            the split of a frame goes by its name, whatever folder it lies in.
        split: train, validation or test.

    Attributes:
        towns: the sequence of each frame, such as Seq05VD: of a video, so neighbouring frames are alike.
        published: how many frames the published split has.

    Raises:
        DataError: unknown split, nothing there, an image without its label or the reverse, a line of a list that names
            no pair, a pipe, a link out of root; and as of `Pairs`.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        if split not in SPLITS:
            raise DataError(f"CamVid has no split {split!r}; give one of {', '.join(SPLITS)}")
        root, folder = Path(root), SPLITS[split][0]
        pairs = []
        if (root / f"{folder}.txt").exists():
            pairs = _listed(root / f"{folder}.txt", root)
        elif (root / f"{folder}annot").is_dir():
            pairs = paired(found(root / folder, root), found(root / f"{folder}annot", root))
        elif (root / f"{folder}_labels").is_dir():
            folders = [name for name, _ in SPLITS.values() if (root / f"{name}_labels").is_dir()]
            sides = [(found(root / name, root), found(root / f"{name}_labels", root, "_L")) for name in folders]
            pairs = [pair for some in sides for pair in paired(*some) if _split_of(pair[0]) == split]
        elif (root / "LabeledApproved_full").is_dir():
            every = paired(found(root / "701_StillsRaw_full", root), found(root / "LabeledApproved_full", root, "_L"))
            pairs = [pair for pair in every if _split_of(pair[0]) == split]
        if not pairs:
            raise DataError(f"{root} holds no {split} frames of CamVid; data/README.md says what goes where")
        super().__init__(root, "camvid", split, pairs)
        self.towns = [image.stem.partition("_")[0] for image, _ in pairs]
        self.published = SPLITS[split][1]

    def label(self, index: int) -> torch.Tensor:
        """The label of frame `index`, uint8 `[H, W]` with ids 0..10 and `IGNORE`."""
        path = self.pairs[index][1]
        coloured = path.stem.endswith("_L")
        pixels = of_colours(np.array(open_image(path).convert("RGB"))) if coloured else open_label(path)
        if (wrong := pixels[pixels > VOID]).size:
            what = "a colour outside the palette" if coloured else f"the id {wrong[0]}"
            raise DataError(f"{path} holds {what} in {wrong.size} pixels; known are {VOID} classes and void")
        return torch.from_numpy(np.where(pixels == VOID, np.uint8(IGNORE), pixels))


def of_colours(pixels: np.ndarray) -> np.ndarray:
    """Ids uint8 `[H, W]` of the published palette's colours `[H, W, 3]`: 0..11, and `IGNORE` for any other colour."""
    packed = pixels.astype(np.int64) @ (65536, 256, 1)
    ids = np.full(packed.shape, IGNORE, np.uint8)
    for i, colours in enumerate(COLOURS):
        ids[np.isin(packed, np.array(colours) @ (65536, 256, 1))] = i
    return ids


def found(folder: Path, root: Path, ending: str = "") -> dict[str, Path]:
    """Image files of a folder whose names end so, by name without ending and suffix; what starts with a dot is not.

    DataError for two of the same name, and as of `regular`, which keeps them below `root`.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in SUFFIXES and path.stem.endswith(ending) and not path.name.startswith("."):
            key = path.stem.removesuffix(ending)
            if key in files:
                raise DataError(f"{path} and {files[key].name} have the same name; keep one of the two")
            files[key] = regular(path, root)
    return files


def regular(path: Path, root: Path) -> Path:
    """The path of a file below root; DataError for anything else."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path} leads out of {root}, to {path.resolve()}; put a copy in its place")
    if not path.is_file():
        raise DataError(f"{path} is not a file but missing, a folder or a pipe; extract the archive again")
    return path


def paired(images: dict[str, Path], labels: dict[str, Path]) -> list[tuple[Path, Path]]:
    """Images and labels of the same names; DataError where one lacks the other."""
    for has, lacks, kind in ((images, labels, "label"), (labels, images, "image")):
        if missing := sorted(has.keys() - lacks.keys()):
            raise DataError(f"{has[missing[0]]} has no {kind} ({len(missing)} such files); extract the archive again")
    return [(images[key], labels[key]) for key in sorted(images)]


def _listed(index: Path, root: Path) -> list[tuple[Path, Path]]:
    """The pairs of a list; folders above the last are of whoever wrote it, SegNet's name /SegNet/CamVid/train/NAME."""
    pairs = []
    for number, line in enumerate(read_file(index).decode(errors="replace").splitlines(), 1):
        if names := line.split():
            if len(names) != 2 or ".." in line:
                raise DataError(f"{index}, line {number}, names no image and label; it reads {line[:200]!r}")
            pairs.append(tuple(regular(root.joinpath(*PurePosixPath(name).parts[-2:]), root) for name in names))
    return pairs


def _split_of(path: Path) -> str:
    """The split that SegNet put a frame of the original in, whatever folder a copy has it in.

    DataError for a name of none of the four sequences.
    """
    sequence, _, rest = path.stem.partition("_")
    if sequence not in ("0001TP", "0006R0", "0016E5", "Seq05VD"):
        raise DataError(f"{path} is named after no sequence of CamVid, so its split is unknown; write lists of pairs")
    number = int("0" + "".join(c for c in rest if c.isdigit()))
    if sequence == "Seq05VD" or (sequence == "0001TP" and number >= 8550):
        return "test"
    return "validation" if sequence == "0016E5" and number % 2 and number >= 7959 else "train"


def check(root: str | Path, splits: dict[str, Callable[[Path], Pairs]], classes: dict[int, str]) -> list[str]:
    """Read every file and print a report: counts, sizes, shares of classes, and what is wrong.

    Args:
        root: the folder.
        splits: what reads each part of it.
        classes: names of ids, void included.

    Returns:
        The problems, one sentence each; none means that all is well.
    """
    problems = []
    for split, reader in splits.items():
        try:
            data = reader(Path(root))
        except DataError as error:
            problems.append(str(error))
            print(f"{split}: not usable")
            continue
        sizes, pixels = set(), np.zeros(256, np.int64)
        for i in range(len(data)):
            try:
                image, label = data[i]
            except DataError as error:
                problems.append(str(error))
                continue
            sizes.add(f"{image.shape[2]} x {image.shape[1]}")
            pixels += np.bincount(label.flatten(), minlength=256)
        due = f" (the published split has {data.published})" if hasattr(data, "published") else ""
        if len(data) != getattr(data, "published", len(data)):
            problems.append(f"{split}: {len(data)} images, the published split has {data.published}")
        print(f"{split}: {len(data)} images{due}\n  {', '.join(sorted(sizes))} px; {data.fingerprint}")
        shares = (f"{name} {100 * pixels[i] / max(pixels.sum(), 1):.2f}" for i, name in classes.items())
        print("  % of pixels: " + ", ".join(shares))
    print("\n  ".join([f"{len(problems)} problems", *problems]) if problems else "no problems")
    return problems


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m lib.data.camvid DIR")
    parts = {split: lambda root, split=split: CamVid(root, split) for split in SPLITS}
    raise SystemExit(1 if check(sys.argv[1], parts, {**dict(enumerate(CLASSES)), IGNORE: "void"}) else 0)
