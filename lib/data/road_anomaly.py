"""Photographs of roads with something on them that belongs on no road, and where it is.

One reader for RoadAnomaly (Lis et al. 2019, arXiv:1904.07595), the validation sets of SegmentMeIfYouCan (Chan et al.
2021, arXiv:2104.14812) and those of Fishyscapes (Blum et al. 2021, arXiv:1904.03215). None of them ships;
data/README.md says where they are to be had. Introduced in notebooks/streethazards.ipynb.
`python -m lib.data.road_anomaly DIR` verifies a folder.
"""

import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from lib.data.camvid import Pairs, check, found, paired, regular
from lib.data.photos import open_label
from lib.data.streethazards import IGNORE, read_image
from lib.files import DataError, read_file

CLASSES = {0: "normal", 1: "anomaly", IGNORE: "ignored"}
OF_ROAD_ANOMALY = 2  # its code for an anomaly
SEMANTIC = "_labels_semantic"
FISHYSCAPES = re.compile(r"\d{4}_(.+)_labels")  # 0000_frankfurt_000001_046504_labels.png


class RoadAnomaly(Pairs):
    """Labels are 0, 1 for an anomaly and `IGNORE` outside the region of interest; sizes differ between images.

    Introduced in notebooks/streethazards.ipynb.

    Args:
        root: a folder with one of
            `images` and `labels_masks`, files of the same name, or NAME_labels_semantic.png as in SegmentMeIfYouCan,
            whose images of the test have no labels and are left out;
            `frames`, with NAME.labels/labels_semantic.png beside NAME.jpg, as RoadAnomaly is published;
            Fishyscapes' own files, 0000_ID_labels.png, with ID_leftImg8bit.png of Cityscapes or Lost and Found anywhere
            below root, and 0000_ID_rgb.npz, what is added to it, beside labels of Static.

    Raises:
        DataError: nothing there, an image without its label or the reverse, of Static a label without what is added, a
            pipe, a link out of root; and as of `Pairs`.
    """

    def __init__(self, root: str | Path):
        root = Path(root)
        masks, frames = root / "labels_masks", root / "frames"
        if masks.is_dir():
            images, labels = found(root / "images", root), found(masks, root)
            if semantic := found(masks, root, SEMANTIC):
                images = {name: path for name, path in images.items() if name.startswith("validation")}
                labels = semantic
            pairs = paired(images, labels)
        elif frames.is_dir():
            images = found(frames, root)
            named = {p.name.removesuffix(".labels"): p / "labels_semantic.png" for p in sorted(frames.glob("*.labels"))}
            pairs = paired(images, {name: regular(path, root) for name, path in named.items()})
        else:
            pairs = _fishyscapes(root)
        if not pairs:
            raise DataError(f"{root} holds no labelled images; data/README.md says what goes where")
        super().__init__(root, root.name, "all", pairs)

    def image(self, index: int) -> torch.Tensor:
        """Image `index`, float32 `[3, H, W]` in 0..1; of Fishyscapes Static with what is put into it."""
        image = read_image(self.pairs[index][0])
        for overlay in self.pairs[index][2:]:
            try:
                added = np.load(io.BytesIO(read_file(overlay)), allow_pickle=False)["rgb"]
                image = (image + torch.from_numpy(added.astype(np.float32)).permute(2, 0, 1) / 255).clamp(0, 1)
            except (ValueError, KeyError, RuntimeError, OSError, zipfile.BadZipFile) as error:
                raise DataError(f"{overlay} is not readable ({error}); extract the archive again") from error
        return image

    def label(self, index: int) -> torch.Tensor:
        """The label of image `index`, uint8 `[H, W]` with 0, 1 and `IGNORE`."""
        path = self.pairs[index][1]
        pixels = open_label(path)
        if (wrong := pixels[~np.isin(pixels, [*CLASSES, OF_ROAD_ANOMALY])]).size:
            raise DataError(f"{path} holds the id {wrong[0]} in {wrong.size} pixels; known are 0, 1, 2 and {IGNORE}")
        return torch.from_numpy(np.where(pixels == OF_ROAD_ANOMALY, np.uint8(1), pixels))


def _fishyscapes(root: Path) -> list[tuple[Path, ...]]:
    """The images that labels name, wherever these lie, labels, and of Static what is added."""
    files = [path for path in sorted(root.rglob("*.png")) if path.is_file()]
    images = {path.stem.removesuffix("_leftImg8bit"): path for path in files if path.stem.endswith("_leftImg8bit")}
    pairs = []
    for path in files:
        if match := FISHYSCAPES.fullmatch(path.stem):
            if match[1] not in images:
                raise DataError(f"{path} has no image {match[1]}_leftImg8bit.png below {root}; put that set there")
            pairs.append((regular(images[match[1]], root), regular(path, root)))
    added = [label.with_name(label.name.replace("_labels.png", "_rgb.npz")) for _, label in pairs]
    if any(path.exists() for path in added):  # a label without would mark what is not in its image
        pairs = [(*pair, regular(path, root)) for pair, path in zip(pairs, added, strict=True)]
    return pairs


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m lib.data.road_anomaly DIR")
    raise SystemExit(1 if check(sys.argv[1], {"all": RoadAnomaly}, CLASSES) else 0)
