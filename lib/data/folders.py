"""Your own images or videos as a data set of the object studies: a folder of them, with masks beside it or without.

`ROOT/SPLIT` holds images, animations and folders of frames; `ROOT/SPLIT_masks` the same names as PNGs of ids, where
there are any: `train/a.jpg` and `train_masks/a.png`; `train/walk/1.jpg`, or `train/walk.gif`, and
`train_masks/walk/1.png`. Opened as of `clips` and `photos`. How a study takes it is in CONTRIBUTING.md.
"""

import hashlib
import operator
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from lib.data import clips
from lib.data.movi import Scene, _chosen
from lib.data.photos import open_label
from lib.files import DataError, open_file


class FolderDataset(Dataset):
    """One split; item i is a `movi.Scene` of `video` and `masks`: an image is a video of one frame.

    Frames are cut to their central square and brought to `side` px. Without masks all is background, and measures that
    need objects are NaN. Tokens ask for as many frames in every scene: choose `frames` where videos differ.

    Args:
        root, split: the folder, and which of those in it.
        frames: None for all, else a slice or frame numbers.
        side: px of a frame.

    Attributes:
        name: of the folder `root`; fingerprint: 12 digits of a hash of all names and bytes, and of the side.

    Raises:
        DataError: no such folder, nothing in it, or two of one name; on reading an item, what cannot be read, or a mask
            that is missing among others or has another size; it names the file.
    """

    def __init__(
        self, root: Path | str, split: str = "train", frames: slice | Iterable[int] | None = None, side: int = 128
    ):
        self.name, self.split, self.side = Path(root).absolute().name, split, side
        self.frames = frames if frames is None or isinstance(frames, slice) else tuple(map(operator.index, frames))
        folder, self._beside = Path(root) / split, Path(root) / f"{split}_masks"
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        self.paths = [p for p in found if p.name[0] != "." and (p.is_dir() or p.suffix.lower() in clips.SUFFIXES)]
        if not self.paths:
            raise DataError(f"{folder} holds no image, animation or folder of frames; put some there")
        names = [_name(path) for path in self.paths]
        for name in (n for n in names if names.count(n) > 1):
            raise DataError(f"{folder} holds two of the name {name}, which would share a mask; rename one of them")
        digest = hashlib.sha256(str(side).encode())
        for path in (p for top in (folder, self._beside) for p in sorted(top.rglob("*")) if p.is_file()):
            with open_file(path) as file:
                digest.update(f"{path.relative_to(root)} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
        self.fingerprint = digest.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Scene:
        path = self.paths[operator.index(index)]
        name = _name(path)
        images, video = clips.pictures(path)
        masks, size = torch.zeros(len(images), *images.shape[-2:]), tuple(images.shape[-2:])
        if self._beside.is_dir():
            beside = self._beside / name
            files = clips.images_in(beside) if video and beside.is_dir() else [beside.with_name(f"{name}.png")]
            ids = [open_label(file) for file in files]
            if len(ids) != len(images):
                raise DataError(f"{beside}: {len(ids)} masks where {len(images)} are due; give one a frame")
            for file in (f for f, mask in zip(files, ids, strict=True) if mask.shape != size):
                raise DataError(f"{file} has not the size of its image, {size[1]} x {size[0]} px; save it anew")
            masks = torch.from_numpy(np.stack(ids)).float()
        chosen = list(_chosen(self.frames, len(images)))
        shown = _square(images[chosen], self.side, mode="bicubic", antialias=True).clamp(0, 1)
        video = (255 * shown).round().byte().permute(0, 2, 3, 1).numpy()
        masks = _square(masks[chosen][:, None], self.side, mode="nearest-exact")[:, 0].byte().numpy()
        return Scene(name, np.ascontiguousarray(video), masks)


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _square(images: Tensor, side: int, **how) -> Tensor:
    """The central square of images `[T, C, H, W]`, at `side` px."""
    height, width = images.shape[-2:]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    return interpolate(images[..., top : top + least, left : left + least], (side, side), **how)
