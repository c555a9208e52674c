"""Frozen tokens, computed once per dataset, backbone and resolution, and kept on disk in half precision.

Where the disk has no room for them, they are computed whenever they are asked for. The key is made of content: the
data's fingerprint and first frames, the backbone's weights, structure and source, the libraries' versions, the sizes.
So no setting can meet another's tokens. One pass of a backbone serves the grids of `FROM`.

Introduced in notebooks/ex_dino1.ipynb.
"""

import hashlib
import inspect
import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate
from tqdm.auto import tqdm

from lib import ROOT, files
from lib.data.movi import MoviDataset, Scene

FOLDER = ROOT / "cache" / "features"  # where they are kept; it may be a link to a folder with room
BATCH = 24  # frames that a backbone sees at once on an accelerator
FEW = 6  # and on a CPU, whose caches then hold what passes from layer to layer
FROM = {16: 32}  # tokens on 16 x 16 are means of those kept on 32 x 32, where the backbone's own grid is that fine
DECODED = 256  # scenes of a split that stay in memory once they were decoded, 0.4 GB of whole videos


class FeatureError(RuntimeError):
    """A file of cached tokens is damaged or cannot be written; the message names it and the remedy."""


@dataclass(frozen=True)
class Features:
    """The tokens of one split; `grid` is rows and columns, N = rows x columns, row-major.

    What is asked for lies on the device of `mean`; it gets there in half precision.
    """

    tokens: "np.ndarray | Computed"  # float16 [S, T, N, C], memory-mapped and read-only, or computed on demand
    grid: tuple[int, int]
    mean: Tensor  # [C], over everything in this split
    std: Tensor  # [C]
    about: dict[str, Any]  # backbone, its weights, strides, size and grid: what makes these tokens these
    pooled: int = 1  # so many kept tokens a side are averaged when they are read

    def batch(self, index: Tensor | np.ndarray | slice) -> Tensor:
        """Tokens of the images `index`, counted over scenes and frames: float32 `[B, N, C]`."""
        return self._read(*_places(index, *self.tokens.shape[:2]))

    def clips(self, scenes: np.ndarray | slice, first: np.ndarray | int = 0, length: int | None = None) -> Tensor:
        """Tokens of `length` frames of scenes from frame `first` on, all frames if None: float32 `[B, T, N, C]`."""
        count, frames = self.tokens.shape[:2]
        scenes = np.arange(count)[scenes][:, None]
        return self._read(scenes, np.reshape(first, (-1, 1)) + np.arange(frames if length is None else length))

    def _read(self, scenes: np.ndarray, frames: np.ndarray) -> Tensor:
        tokens = torch.as_tensor(self.tokens[scenes, frames]).to(self.mean.device).float()
        return tokens if self.pooled == 1 else _averaged(tokens, self.pooled)


class Computed:
    """Stands in for an array of tokens that has no room on the disk: `tokens[scenes, frames]` is computed each time."""

    def __init__(self, shape: list[int], backbone: nn.Module, dataset: Any, size: int, grid: int):
        self.shape, self.dtype = tuple(shape), np.dtype(np.float16)
        self._backbone, self._dataset, self._sides = backbone, dataset, (size, grid)

    def __getitem__(self, index: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """Float16 `[..., N, C]` for numbers of scenes and of frames `[...]`, on the backbone's device."""
        scenes, frames = np.broadcast_arrays(*index)
        videos = {s: self._dataset[s].video for s in np.unique(scenes).tolist()}
        pictures = np.stack([videos[s][t] for s, t in zip(scenes.flat, frames.flat, strict=True)])
        return _half(self._backbone, pictures, *self._sides).unflatten(0, scenes.shape)


def ahead(batch: Callable[[int], Tensor], features: Features) -> Callable[[int], Tensor]:
    """`batch(step)` as it is where tokens are kept; where they are computed, the next step's is made meanwhile.

    In a thread: decoding and the backbone leave Python's lock to the model that trains.
    """
    if not isinstance(features.tokens, Computed):
        return batch
    worker, waiting = ThreadPoolExecutor(1), {}

    def made(step: int) -> Tensor:
        found = waiting.pop(step).result() if step in waiting else batch(step)
        waiting[step + 1] = worker.submit(batch, step + 1)
        return found

    return made


def _averaged(tokens: Tensor, cells: int) -> Tensor:
    """Tokens `[..., N, C]` of a square grid, `cells` x `cells` of them averaged."""
    side = math.isqrt(tokens.shape[-2])
    maps = tokens.mT.unflatten(-1, (side, side)).flatten(0, -4)
    return avg_pool2d(maps, cells).flatten(-2).mT.unflatten(0, tokens.shape[:-2])


def _places(index: np.ndarray | Tensor | slice, scenes: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Scene and frame of images that are counted over both; numpy would take a tensor of one number for a number."""
    return np.divmod(np.arange(scenes * frames)[np.asarray(index) if isinstance(index, Tensor) else index], frames)


def describe(backbone: nn.Module, size: int, grid: int) -> dict[str, Any]:
    """What makes tokens what they are, in JSON: the backbone, a hash of its weights, its strides, and the sizes.

    The hash covers names, shapes and values of all parameters and buffers, and so the pixel normalisation. Of what is
    drawn at random it covers what draws it: last digits of the values depend on the processor's maker.
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


def parts_of(images: Tensor, where: torch.device) -> tuple[Tensor, ...]:
    """Images as a backbone on a device sees them, some at a time; their tokens do not depend on it."""
    return images.split(FEW if where.type == "cpu" else BATCH)


def _half(backbone: nn.Module, video: np.ndarray, size: int, grid: int) -> Tensor:
    """`tokens_of` frames uint8 `[T, H, W, 3]`, some at a time, in half precision."""
    where, images = _device(backbone), torch.from_numpy(video).permute(0, 3, 1, 2)
    parts = (part.to(where).float() / 255 for part in parts_of(images, where))
    return torch.cat([tokens_of(backbone, part, size, grid).half() for part in parts])


def compute(backbone: nn.Module, dataset: Any, size: int, grid: int) -> Features:
    """Tokens of every frame of every scene; computed by the first process that asks, read by all others.

    Where the disk has no room for them, a line says so, only their mean and deviation are kept, and the tokens are
    computed when they are asked for: the same numbers.

    Args:
        backbone: of `lib.models.backbones`, frozen; computes where it is.
        dataset: scenes with a `video` of uint8 `[T, H, W, 3]` and equal T; has `fingerprint`, `split` and `frames`.
        size: side in pixels that frames are resized to.
        grid: side of the token grid.

    Raises:
        FeatureError: a cached file does not hold what its description says, or cannot be written.
        ValueError: the scenes differ in length, have no frames or are not square; tokens beyond half precision.
    """
    fine = size // min(getattr(backbone, "strides", None) or (size,))  # rows of the backbone's own grid
    kept = FROM[grid] if FROM.get(grid, fine + 1) <= fine else grid
    about = describe(backbone, size, kept)
    if not len(dataset):
        raise ValueError(f"split {dataset.split} has no scene")
    shown = hashlib.sha256(np.ascontiguousarray(dataset[0].video)).hexdigest()  # what transforms really make
    data = [dataset.fingerprint, dataset.split, repr(dataset.frames), shown]
    parts = (*type(backbone).__mro__[:-2], tokens_of)  # without nn.Module and object; not modules, which grow
    code = [inspect.getsource(thing) for thing in parts]
    heads = [m.num_heads for m in backbone.modules() if hasattr(m, "num_heads")]
    code += [repr(backbone), heads, version("timm"), version("torch"), FROM]  # what weights do not tell
    key = hashlib.sha256(json.dumps([about, data, code]).encode()).hexdigest()[:16]
    path = FOLDER / f"{backbone.name}-{dataset.split}-{kept}-{key}.npy"
    if not path.exists():  # what is finished is read without a lock: the folder may be read-only
        try:
            with files.lock(path.with_suffix(".lock"), wait=True):
                if not path.exists():
                    _compute(path, backbone, dataset, size, kept)
        except OSError as error:
            raise FeatureError(
                f"{FOLDER}: tokens cannot be kept ({error}); make room, or make cache a link to a folder with room"
            ) from error
    computed = partial(Computed, backbone=backbone, dataset=dataset, size=size, grid=kept)
    return _open(path, about | {"grid": grid}, _device(backbone), computed, kept // grid)


def _compute(path: Path, backbone: nn.Module, dataset: Any, size: int, grid: int) -> None:
    shape, total, count, squares = None, 0.0, 0, {1: 0.0}
    squares |= {grid // coarse: 0.0 for coarse, kept in FROM.items() if kept == grid}
    with ExitStack() as stack:
        for s in tqdm(range(len(dataset)), desc=f"{backbone.name} on {dataset.split}", unit="scene", leave=False):
            tokens = _half(backbone, dataset[s].video, size, grid).cpu().numpy()
            if not np.isfinite(tokens).all():
                raise ValueError(f"tokens of {backbone.name} in scene {s} are not finite in half precision")
            if shape is None:
                shape = (len(dataset), *tokens.shape)
                need, free = len(dataset) * tokens.nbytes, shutil.disk_usage(path.parent).free
                if need > free:
                    name, room = path.stem, f"{need / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free"
                    print(f"{name}: {room}; these tokens are computed whenever they are asked for")
                    if path.with_suffix(".json").exists():
                        return
                kept = stack.enter_context(files.written(path)) if need <= free else os.devnull
                file = stack.enter_context(open(kept, "wb"))  # not mapped: on a full disk that would end the process
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            if len(tokens) != shape[1]:
                raise ValueError(f"scene {s} has {len(tokens)} frames, the first has {shape[1]}; choose frames")
            file.write(tokens.tobytes())
            exact = torch.from_numpy(tokens).double()
            total, count = total + exact.sum((0, 1)), count + exact.shape[0] * exact.shape[1]
            for cells in squares:
                squares[cells] = squares[cells] + _averaged(exact, cells).square().sum((0, 1)) * cells**2
        mean = total / count
        std = {str(n): (s / count - mean**2).clamp(min=1e-12).sqrt().tolist() for n, s in squares.items()}
        # First: an array is there only with its description; deviations by how many tokens a side are averaged.
        files.write(path.with_suffix(".json"), {"shape": shape, "mean": mean.tolist(), "std": std})


def _open(
    path: Path, about: dict[str, Any], where: torch.device, computed: Callable[[list[int]], Computed], pooled: int
) -> Features:
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        tokens = np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else computed(note["shape"])
        if list(tokens.shape) != note["shape"] or tokens.dtype != np.float16:
            raise ValueError(f"{tokens.shape} {tokens.dtype} where {note['shape']} float16 is due")
        mean, std = (torch.tensor(v, device=where) for v in (note["mean"], note["std"][str(pooled)]))
        if not mean.shape == std.shape == tokens.shape[-1:] or not (mean.isfinite() & std.isfinite()).all():
            raise ValueError("its description holds no mean and deviation of each channel")
    except Exception as error:  # whatever numpy, json and torch say to bytes that are something else
        raise FeatureError(f"{path} is damaged ({error}); delete it, and it will be computed again") from error
    return Features(tokens, (about["grid"],) * 2, mean, std, about, pooled)


def _device(module: nn.Module) -> torch.device:
    return next(tensor.device for tensors in (module.parameters(), module.buffers()) for tensor in tensors)


def _weights(module: nn.Module) -> str:
    """Twelve digits of a hash of parameters and buffers with their names, so that layers changed about show."""
    digest, drawn = hashlib.sha256(), getattr(module, "provenance", "").startswith("random")
    if drawn:
        torch_version = version("torch").partition("+")[0]  # whatever it was built for
        digest.update(f"{module.provenance}, timm {version('timm')}, torch {torch_version} ".encode())
    for name, value in sorted((*module.named_parameters(), *module.named_buffers()), key=itemgetter(0)):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        if not (drawn and isinstance(value, nn.Parameter)):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


class Split:
    """One split of MOVi-A with its tokens: S scenes of T frames. Nothing is decoded or computed before it is asked for.

    Images are counted over scenes and frames, scene x T + frame. None of its methods keeps a whole split in memory.

    Attributes:
        name, dataset_name: of the split, and of its data, such as "movi_a stand-in".
        fingerprint: of its data and frames: `569c3cd0d8f2[::2]`.
        about: what makes its tokens what they are, see `describe`.
        dim: channels C of a token.
        shape: S, T, H and W.
        count: number of images, S x T.
        features: the tokens, from the cache or computed, see `compute`, on the backbone's device.
    """

    def __init__(self, dataset: MoviDataset, backbone: nn.Module, size: int, grid: int):
        self._dataset, self._backbone, self._size, self._decoded = dataset, backbone, size, {}
        self.name, self.dataset_name, self.dim = dataset.split, dataset.name, backbone.dim
        frames, chosen = dataset.frames, ""
        if isinstance(frames, slice):
            chosen = ":".join("" if v is None else str(v) for v in (frames.start, frames.stop, frames.step))
        elif frames is not None:
            chosen = ",".join(map(str, frames))
        self.fingerprint = dataset.fingerprint + (f"[{chosen}]" if chosen else "")
        self.about = describe(backbone, size, grid)

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self._dataset), *self.scene(0).masks.shape

    @property
    def count(self) -> int:
        return self.shape[0] * self.shape[1]

    @cached_property
    def features(self) -> Features:
        return compute(self._backbone, self._dataset, self._size, self.about["grid"])

    def scene(self, index: int) -> Scene:
        """Scene `index` with its video uint8 `[T, H, W, 3]` and masks uint8 `[T, H, W]`; the latest stay decoded."""
        index = int(index)
        if index not in self._decoded:
            if len(self._decoded) == DECODED:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[index] = self._dataset[index]
        return self._decoded[index]

    def frames(self, index: np.ndarray | Tensor | slice = slice(None)) -> Tensor:
        """The images `index`, uint8 `[B, 3, H, W]`."""
        return torch.from_numpy(self._chosen("video", index)).permute(0, 3, 1, 2)

    def pictures(self, index: np.ndarray | Tensor | slice = slice(None)) -> Tensor:
        """The images `index`, `[B, 3, H, W]` in 0..1."""
        return self.frames(index).float() / 255

    def ids(self, index: np.ndarray | Tensor | slice = slice(None)) -> Tensor:
        """The ground truth of the images `index`, int64 `[B, H, W]`: 0 background, object i has id i + 1."""
        return torch.from_numpy(self._chosen("masks", index)).long()

    def _chosen(self, name: str, index: np.ndarray | Tensor | slice) -> np.ndarray:
        places = zip(*_places(index, *self.shape[:2]), strict=True)
        return np.stack([getattr(self.scene(s), name)[t] for s, t in places])
