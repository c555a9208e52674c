"""Frozen tokens, computed once per dataset, backbone and resolution, and kept on disk in half precision.

The key is made of content: the data's fingerprint, the backbone's weights and source, the sizes. So no setting can
meet another's tokens. Introduced in notebooks/ex_dino1.ipynb.
"""

import hashlib
import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from tqdm.auto import tqdm

from lib import ROOT


class FeatureError(RuntimeError):
    """A file of cached tokens is damaged; the message names it and the remedy."""


@dataclass(frozen=True)
class Features:
    """The tokens of one split; `grid` is rows and columns, N = rows x columns, row-major."""

    tokens: np.ndarray  # float16 [S, T, N, C], memory-mapped and read-only
    grid: tuple[int, int]
    mean: Tensor  # [C], over everything in this split
    std: Tensor  # [C]
    about: dict[str, Any]  # backbone, its weights, strides, size and grid: what makes these tokens these

    @property
    def dim(self) -> int:
        """Channels C of a token."""
        return self.tokens.shape[-1]

    def batch(self, index: Tensor | np.ndarray | slice) -> Tensor:
        """Tokens of the images `index`, counted over scenes and frames: float32 `[B, N, C]`."""
        flat = self.tokens.reshape(-1, *self.tokens.shape[2:])
        return torch.from_numpy(flat[np.asarray(index) if isinstance(index, Tensor) else index].astype(np.float32))

    def clips(self, scenes: Tensor | np.ndarray | slice, frames: slice | np.ndarray = slice(None)) -> Tensor:
        """Tokens of whole scenes, or of some of their frames: float32 `[B, T, N, C]`."""
        chosen = self.tokens[np.asarray(scenes) if isinstance(scenes, Tensor) else scenes]
        return torch.from_numpy(chosen[:, frames].astype(np.float32))


def describe(backbone: nn.Module, size: int, grid: int) -> dict[str, Any]:
    """What makes tokens what they are, in JSON: the backbone, a hash of its weights, its strides, and the sizes."""
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
    it is coarser. So one resolution of tokens serves every backbone.
    """
    if images.shape[-1] != size:
        images = interpolate(images, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    tokens, (rows, columns) = backbone(images)
    maps = tokens.float().transpose(1, 2).unflatten(2, (rows, columns))
    if rows > grid:
        maps = adaptive_avg_pool2d(maps, grid)
    elif rows < grid:
        maps = interpolate(maps, (grid, grid), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def compute(
    backbone: nn.Module,
    dataset: Any,
    size: int,
    grid: int,
    *,
    batch: int = 24,
    device: str = "cpu",
    folder: Path = ROOT / "cache" / "features",
) -> Features:
    """Tokens of every frame of every scene; computed by the first process that asks, read by all others.

    Args:
        backbone: of `lib.models.backbones`, frozen.
        dataset: scenes with a `video` of uint8 `[T, H, W, 3]` and equal T; has `fingerprint`, `split` and `frames`.
        size: side in pixels that frames are resized to.
        grid: side of the token grid.
        folder: where the files are kept; a file is written under a temporary name and renamed when it is whole.

    Raises:
        FeatureError: a cached file does not hold what its description says.
        ValueError: the scenes differ in length.
    """
    about = describe(backbone, size, grid)
    data = [dataset.fingerprint, dataset.split, repr(dataset.frames)]
    source = [_source(thing) for thing in (type(backbone), tokens_of)]
    key = hashlib.sha256(json.dumps([about, data, source]).encode()).hexdigest()[:16]
    path = folder / f"{backbone.name}-{dataset.split}-{grid}-{key}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # released by the system when its process dies
        if not path.exists():
            _compute(path, backbone.to(device), dataset, size, grid, batch, device)
    return _open(path, about)


def _compute(path: Path, backbone: nn.Module, dataset: Any, size: int, grid: int, batch: int, device: str) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npy")
    array, total, squares, count = None, 0.0, 0.0, 0
    try:
        for s in tqdm(range(len(dataset)), desc=f"{backbone.name} on {dataset.split}", unit="scene", leave=False):
            video = torch.from_numpy(dataset[s].video).permute(0, 3, 1, 2)  # [T, 3, H, W]
            parts = [tokens_of(backbone, p.to(device).float() / 255, size, grid).cpu() for p in video.split(batch)]
            tokens = torch.cat(parts).numpy()
            if array is None:
                shape = (len(dataset), *tokens.shape)
                array = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            if len(tokens) != array.shape[1]:
                raise ValueError(f"scene {s} has {len(tokens)} frames, the first has {array.shape[1]}; choose frames")
            array[s] = tokens
            flat = array[s].reshape(-1, tokens.shape[-1]).astype(np.float64)
            total, squares, count = total + flat.sum(0), squares + (flat**2).sum(0), count + len(flat)
        if array is None:
            raise ValueError(f"split {dataset.split} has no scene")
        array.flush()
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        note = {"shape": array.shape, "mean": mean.tolist(), "std": std.tolist()}
        del array
        _write(path.with_suffix(".json"), json.dumps(note))  # first: an array is there only with its description
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path, about: dict[str, Any]) -> Features:
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        if list(tokens.shape) != note["shape"] or tokens.dtype != np.float16:
            raise ValueError(f"{tokens.shape} {tokens.dtype} where {note['shape']} float16 is due")
    except (OSError, ValueError, KeyError) as error:
        raise FeatureError(f"{path} is damaged ({error}); delete it, and it will be computed again") from error
    return Features(tokens, (about["grid"],) * 2, torch.tensor(note["mean"]), torch.tensor(note["std"]), about)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(inspect.getmodule(thing))
    except (OSError, TypeError):  # defined in a notebook, whose module has no file
        return inspect.getsource(thing)


def _weights(module: nn.Module) -> str:
    """Twelve digits of a hash of the values alone, so that renaming a layer makes no other weights of them."""
    values = sorted(
        hashlib.sha256(v.cpu().contiguous().numpy().tobytes()).hexdigest() for v in module.state_dict().values()
    )
    return hashlib.sha256("".join(values).encode()).hexdigest()[:12]
