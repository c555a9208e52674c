"""Frozen tokens, computed once per dataset, backbone and resolution, and kept on disk in half precision.

The key is made of content: the data's fingerprint and first frames, the backbone's weights, structure and source, the
libraries' versions, the sizes. So no setting can meet another's tokens. Introduced in notebooks/ex_dino1.ipynb.
"""

import hashlib
import inspect
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from tqdm.auto import tqdm

from lib import ROOT, files
from lib.data.movi import MoviDataset

FOLDER = ROOT / "cache" / "features"  # where they are kept; it may be a link to a folder with room
BATCH = 24  # frames that a backbone sees at once


class FeatureError(RuntimeError):
    """A file of cached tokens is damaged or cannot be written; the message names it and the remedy."""


@dataclass(frozen=True)
class Features:
    """The tokens of one split; `grid` is rows and columns, N = rows x columns, row-major."""

    tokens: np.ndarray  # float16 [S, T, N, C], memory-mapped and read-only
    grid: tuple[int, int]
    mean: Tensor  # [C], over everything in this split
    std: Tensor  # [C]
    about: dict[str, Any]  # backbone, its weights, strides, size and grid: what makes these tokens these

    def batch(self, index: Tensor | np.ndarray | slice) -> Tensor:
        """Tokens of the images `index`, counted over scenes and frames: float32 `[B, N, C]`."""
        flat = self.tokens.reshape(-1, *self.tokens.shape[2:])
        return torch.from_numpy(flat[np.asarray(index) if isinstance(index, Tensor) else index].astype(np.float32))

    def clips(self, scenes: np.ndarray | slice) -> Tensor:
        """Tokens of whole scenes: float32 `[B, T, N, C]`."""
        return torch.from_numpy(self.tokens[scenes].astype(np.float32))


def describe(backbone: nn.Module, size: int, grid: int) -> dict[str, Any]:
    """What makes tokens what they are, in JSON: the backbone, a hash of its weights, its strides, and the sizes.

    The hash covers names, shapes and values of all parameters and buffers, and so the pixel normalisation.
    """
    return {
        "backbone": backbone.name,
        "weights": _weights(backbone),
        "strides": list(getattr(backbone, "strides", None) or ()),
        "size": size,
        "grid": grid,
    }


@torch.no_grad()
def tokens_of(backbone: nn.Module, images: Tensor, size: int, grid: int) -> Tensor:
    """Tokens of images `[B, 3, H, W]` in 0..1, on a grid of `grid` x `grid`: `[B, N, C]`.

    The images are resized bicubically to `size` px first; the backbone's own grid is averaged, or interpolated where
    it is coarser. So one resolution of tokens serves every backbone. Single precision, whatever surrounds the call.

    Raises:
        ValueError: the images are not square, or there are none.
    """
    height, width = images.shape[-2:]
    if height != width or not len(images):
        raise ValueError(f"{len(images)} frames of {height} x {width} px; there must be one, and square: crop or pad")
    if images.shape[-1] != size:
        images = interpolate(images, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    with torch.autocast(images.device.type, enabled=False):
        tokens, (rows, columns) = backbone(images)
    maps = tokens.float().transpose(1, 2).unflatten(2, (rows, columns))
    if rows > grid:
        maps = adaptive_avg_pool2d(maps, grid)
    elif rows < grid:
        maps = interpolate(maps, (grid, grid), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def compute(backbone: nn.Module, dataset: Any, size: int, grid: int, device: str = "cpu") -> Features:
    """Tokens of every frame of every scene; computed by the first process that asks, read by all others.

    Args:
        backbone: of `lib.models.backbones`, frozen.
        dataset: scenes with a `video` of uint8 `[T, H, W, 3]` and equal T; has `fingerprint`, `split` and `frames`.
        size: side in pixels that frames are resized to.
        grid: side of the token grid.

    Raises:
        FeatureError: a cached file does not hold what its description says, or cannot be written.
        ValueError: the scenes differ in length, have no frames or are not square; tokens beyond half precision.
    """
    about = describe(backbone, size, grid)
    if not len(dataset):
        raise ValueError(f"split {dataset.split} has no scene")
    shown = hashlib.sha256(np.ascontiguousarray(dataset[0].video)).hexdigest()  # what transforms really make
    data = [dataset.fingerprint, dataset.split, repr(dataset.frames), shown]
    parts = (*type(backbone).__mro__[:-2], tokens_of)  # without nn.Module and object; not modules, which grow
    code = [inspect.getsource(thing) for thing in parts]
    heads = [m.num_heads for m in backbone.modules() if hasattr(m, "num_heads")]
    code += [repr(backbone), heads, version("timm"), version("torch")]  # what weights do not tell
    key = hashlib.sha256(json.dumps([about, data, code]).encode()).hexdigest()[:16]
    path = FOLDER / f"{backbone.name}-{dataset.split}-{grid}-{key}.npy"
    if not path.exists():  # what is finished is read without a lock: the folder may be read-only
        try:
            with files.lock(path.with_suffix(".lock"), wait=True):
                _sweep(path)
                if not path.exists():
                    _compute(path, backbone.to(device), dataset, size, grid, device)
        except OSError as error:
            raise FeatureError(
                f"{FOLDER}: tokens cannot be kept ({error}); make room, or make cache a link to a folder with room"
            ) from error
    return _open(path, about)


def _compute(path: Path, backbone: nn.Module, dataset: Any, size: int, grid: int, device: str) -> None:
    shape, total, squares, count = None, 0.0, 0.0, 0
    with files.written(path) as temporary:
        with open(temporary, "wb") as file:  # not mapped: on a full disk that would end the process
            for s in tqdm(range(len(dataset)), desc=f"{backbone.name} on {dataset.split}", unit="scene", leave=False):
                video = torch.from_numpy(dataset[s].video).permute(0, 3, 1, 2)  # [T, 3, H, W]
                parts = [tokens_of(backbone, p.to(device).float() / 255, size, grid).cpu() for p in video.split(BATCH)]
                tokens = torch.cat(parts).half().numpy()
                if not np.isfinite(tokens).all():
                    raise ValueError(f"tokens of {backbone.name} in scene {s} are not finite in half precision")
                if shape is None:
                    shape = (len(dataset), *tokens.shape)
                    need, free = len(dataset) * tokens.nbytes, shutil.disk_usage(path.parent).free
                    if need > free:
                        raise OSError(f"{need / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")
                    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                if len(tokens) != shape[1]:
                    raise ValueError(f"scene {s} has {len(tokens)} frames, the first has {shape[1]}; choose frames")
                file.write(tokens.tobytes())
                flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
                total, squares, count = total + flat.sum(0), squares + (flat**2).sum(0), count + len(flat)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        # First: an array is there only with its description.
        files.write(path.with_suffix(".json"), {"shape": shape, "mean": mean.tolist(), "std": std.tolist()})


def _sweep(path: Path) -> None:
    """Delete what killed processes left half-written: files whose lock is free, and those of `path`, which is ours."""
    for left in path.parent.glob(".*.tmp*"):
        stem = left.name.split(".")[1]
        with files.lock(path.with_name(f"{stem}.lock")) as free:
            if free or stem == path.stem:
                left.unlink(missing_ok=True)


def _open(path: Path, about: dict[str, Any]) -> Features:
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        if list(tokens.shape) != note["shape"] or tokens.dtype != np.float16:
            raise ValueError(f"{tokens.shape} {tokens.dtype} where {note['shape']} float16 is due")
        mean, std = torch.tensor(note["mean"]), torch.tensor(note["std"])
        if not mean.shape == std.shape == tokens.shape[-1:] or not (mean.isfinite() & std.isfinite()).all():
            raise ValueError("its description holds no mean and deviation of each channel")
    except Exception as error:  # whatever numpy, json and torch say to bytes that are something else
        raise FeatureError(f"{path} is damaged ({error}); delete it, and it will be computed again") from error
    return Features(tokens, (about["grid"],) * 2, mean, std, about)


def _weights(module: nn.Module) -> str:
    """Twelve digits of a hash of parameters and buffers with their names, so that layers changed about show."""
    digest = hashlib.sha256()
    for name, value in sorted((*module.named_parameters(), *module.named_buffers()), key=itemgetter(0)):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


class Split:
    """One split of MOVi-A with its tokens: S scenes of T frames. Nothing is decoded or computed before it is asked for.

    Attributes:
        name, dataset_name: of the split, and of its data, such as "movi_a stand-in".
        fingerprint: of its data and frames: `569c3cd0d8f2[::2]`.
        about: what makes its tokens what they are, see `describe`.
        dim: channels C of a token.
        count: number of images, S x T.
        features: the tokens, from the cache or computed once, see `compute`.
        video: uint8 `[S, T, H, W, 3]`.
        truth: the ground truth, uint8 `[S, T, H, W]`, 0 background, object i has id i + 1.
    """

    def __init__(self, dataset: MoviDataset, backbone: nn.Module, size: int, grid: int, device: str = "cpu"):
        self._dataset, self._backbone, self._size, self._device = dataset, backbone, size, device
        self.name, self.dataset_name, self.dim = dataset.split, dataset.name, backbone.dim
        frames, chosen = dataset.frames, ""
        if isinstance(frames, slice):
            chosen = ":".join("" if v is None else str(v) for v in (frames.start, frames.stop, frames.step))
        elif frames is not None:
            chosen = ",".join(map(str, frames))
        self.fingerprint = dataset.fingerprint + (f"[{chosen}]" if chosen else "")
        self.about = describe(backbone, size, grid)

    @cached_property
    def count(self) -> int:
        return len(self._dataset) * len(self._dataset[0].masks)

    @cached_property
    def features(self) -> Features:
        return compute(self._backbone, self._dataset, self._size, self.about["grid"], device=self._device)

    @cached_property
    def video(self) -> np.ndarray:
        return np.stack([self._dataset[i].video for i in range(len(self._dataset))])

    @cached_property
    def truth(self) -> np.ndarray:
        return np.stack([self._dataset[i].masks for i in range(len(self._dataset))])

    def images(self) -> tuple[Tensor, Tensor]:
        """All frames as `[S * T, 3, H, W]` in 0..1 and their ids `[S * T, H, W]`."""
        images = torch.from_numpy(self.video).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        return images, torch.from_numpy(self.truth).flatten(0, 1).long()
