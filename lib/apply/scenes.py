"""Your own images and videos in one call: masks of objects as arrays, from committed models.

`lib.masks_of` is the function here. Introduced in notebooks/ex_slot3.ipynb.
"""

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from lib import ROOT, features, plots
from lib.apply import zoo
from lib.masks import guided, merge
from lib.models import backbones
from lib.models.backbones import Backbone
from lib.models.dinosaur import on_image
from lib.models.pixel_autoencoder import Autoencoder
from lib.models.video import VideoModel
from lib.training import Run

SIDE = 256  # px, longest side at which masks are drawn to the edges of an image
RADIUS, FRAME = 6, 128  # px of that filter, unless a row says otherwise, and of the frame that it was chosen on
MOST = 2**28  # values that are returned at once, 1 GB
#: Where the threshold of `merge` was measured, by name of the model: the file of rows, and which of them.
MERGED = {
    "ex_dino4-ours-0": ("sweep_ex_dino4_trained", {"config": "ours"}),
    "ex_dino4-video-0": ("sweep_ex_dino4_followed", {}),
}
KINDS = ("attention", "decoder")


class Seen(NamedTuple):
    """What a model makes of T frames; images count as videos of one frame."""

    masks: Tensor  # [T, K, N], sums to one over K; K + 1 of a model of pixels with a layer behind, which is the last
    slots: Tensor  # [T, K, D]
    frames: Tensor | None  # [T, K, 3]


def masks_of(
    source: Any,
    model: str | Path | Run = "ex_dino4",
    *,
    slots: int | None = None,
    threshold: float | None = None,
    refine: bool | None = None,
    kind: str = "attention",
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> np.ndarray:
    """Masks of an image, float32 `[K, H, W]`, or of a video, `[T, K, H, W]`; they sum to one over K.

    A model of pixels with a layer behind its slots (ex_slot1) has one more, the last.

    Introduced in notebooks/ex_slot3.ipynb. The frames are brought to the square that the model reads, whatever their
    shape, and the masks back to the frames.

    Args:
        source: see `clips.pictures`: a path, one of `photos.PACKAGED`, a PIL image, or an array.
        model: a name or path for `lib.load`, or what it returned. "ex_dino4" follows slots through a video.
        slots: K; None: as trained. See `zoo.with_slots`.
        threshold: of `merge`; None: that of the model's row in figures/results, 0 if it has none. 0 merges nothing.
            What is merged into another slot is left with zeros.
        refine: draw masks to the edges of the image (`guided`); None: of models of tokens only, as the tables have it.
        kind: "attention", Slot Attention's own masks, or "decoder"; pixel models have the decoder's alone.
        temperature: of the masks' softmax over slots, relative to the trained one.
        seed: of slots that are drawn.
        device: see `training.place`.

    Raises:
        zoo.Wrong: the source cannot be used, there is no such model, it has not so many slots, or the masks would take
            over 1 GB.
        CheckpointError: as of `zoo.load`.
    """
    if kind not in KINDS or not 0 < temperature < float("inf"):
        raise zoo.Wrong(
            f"kind {kind!r}, temperature {temperature}; give attention or decoder, and a positive temperature"
        )
    images, video = zoo.pictures(source)
    run, name = zoo.run_of(model, device, video)
    count = slots or zoo.attention_of(run.model).num_slots
    size = images.shape[-2:]
    if len(images) * count * size.numel() > MOST:
        raise zoo.Wrong(
            f"{len(images)} x {count} masks of {size[1]} x {size[0]} px take over 1 GB; give smaller frames"
        )
    small = shrunk(images)
    seen = see(run, small, slots=count, kind=kind, seed=seed, video=video)
    usual, on_tokens = finish(name, run.header), not isinstance(run.model, Autoencoder)
    joint = joined(seen, usual.threshold if threshold is None else threshold, temperature)
    masks = on_images(joint, small, usual.radius if (on_tokens if refine is None else refine) else 0)
    masks = masks if masks.shape[-2:] == size else interpolate(masks, size, mode="bilinear", align_corners=False)
    masks = masks.cpu().numpy()
    return masks if video else masks[0]


def shrunk(images: Tensor, side: int = SIDE) -> Tensor:
    """Images `[T, 3, H, W]` whose longest side is at most `side` px."""
    scale = side / max(images.shape[-2:])
    if scale >= 1:
        return images
    size = [max(round(s * scale), 2) for s in images.shape[-2:]]
    return interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)


def tokens_of(run: Run, images: Tensor) -> Tensor:
    """The tokens `[T, N, C]` that a model reads, of images `[T, 3, H, W]` in 0..1, some at a time, on its device."""
    about = run.header["config"]["tokens"]
    network = backbone(about["backbone"], tuple(about["strides"]), about["weights"], zoo.device_of(run.model))
    height, width = images.shape[-2:]
    if height != width or height > about["size"]:
        square = (about["size"], about["size"])
        images = interpolate(images, square, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    grid, where = zoo.grid_of(run.header["config"]), zoo.device_of(run.model)
    parts = features.parts_of(images, where)
    return torch.cat([features.tokens_of(network, part.to(where), about["size"], grid) for part in parts])


@lru_cache(maxsize=4)
def backbone(name: str, strides: tuple[int, ...], weights: str, device: torch.device) -> Backbone:
    """A frozen network with the very weights that a model has learned from. Raises Wrong if they are others."""
    network = backbones.load(name, strides=strides)
    if (found := features.describe(network, 0, 0)["weights"]) != weights:
        raise zoo.Wrong(
            f"weights of {name} are {found}, the model learned from {weights}; put those into SLOTS_WEIGHTS"
        )
    return network.to(device)


@torch.no_grad()
def see(
    run: Run,
    images: Tensor,
    *,
    tokens: Tensor | None = None,
    slots: int | None = None,
    kind: str = "attention",
    seed: int = 0,
    video: bool = False,
) -> Seen:
    """What a model makes of images `[T, 3, H, W]`, or of their tokens `[T, N, C]`, on its device.

    Of a video that is no video model's, each frame begins where the last one ended, with three iterations.
    """
    model = run.model
    if slots and slots != zoo.attention_of(model).num_slots:
        model = zoo.with_slots(model, slots)
    if tokens is None and not isinstance(model, Autoencoder):
        tokens = tokens_of(run, images)  # before the draws: a backbone that is built draws too
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, Autoencoder):
            side = run.header["config"]["size"]
            squares = interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
            last = run.header["config"]["rules"]["temperature"][1]
            start = model.slot_attention.initial_slots(1).expand(len(images), -1, -1)
            found = model(squares.clamp(0, 1).to(zoo.device_of(model)), last, slots=start)
            return Seen(found.masks.flatten(2), found.slots, None)
        if video or isinstance(model, VideoModel):
            image_model = getattr(model, "image_model", model)
            predictor = {"predictor": "none"} if not isinstance(model, VideoModel) else {}
            if predictor or run.header["config"]["rules"]["video"].get("predictor") == "none":
                model = VideoModel(image_model, predictor="none", iterations=(3, 3)).eval()  # as in ex_dino4
            one = None if kind == "decoder" else tokens.new_zeros(1, len(tokens), 1, 2)  # decoding is most of the work
            found = model(tokens[None], one)
            masks = found.attention if kind == "attention" else found.masks
            places = None if found.places is None else found.places[0]
            return Seen(masks[0].float(), found.slots[0].float(), places)
        found = model(tokens, None if kind == "decoder" else tokens.new_zeros(len(tokens), 1, 2))
        masks = found.attention if kind == "attention" else found.masks
        return Seen(masks.float(), found.slots.float(), found.frames)


def tempered(masks: Tensor, temperature: float) -> Tensor:
    """Masks `[T, K, ...]` as their softmax over slots gives them at another temperature."""
    return masks if temperature == 1 else (masks.clamp(min=1e-12).log() / temperature).softmax(1)


def joined(seen: Seen, threshold: float, temperature: float = 1.0) -> Tensor:
    """Masks `[T, K, N]`, tempered and, where the threshold is above 0, merged for all frames at once, layers apart."""
    masks = tempered(seen.masks, temperature)
    if threshold <= 0:
        return masks
    places = None if seen.frames is None else seen.frames[None]
    count = seen.slots.shape[1]
    return torch.cat([merge(masks[None, :, :count], seen.slots[None], places, threshold)[0], masks[:, count:]], 1)


def on_images(masks: Tensor, images: Tensor, radius: int = 0) -> Tensor:
    """Masks `[T, K, N]` on images `[T, 3, H, W]`, `[T, K, H, W]`; drawn to their edges with a radius as of `Finish`."""
    used = masks.amax((0, 2)) > 0  # what was merged into another is zero, and stays so
    size = tuple(images.shape[-2:])
    found = masks.new_zeros(*masks.shape[:2], *size)
    if radius:
        found[:, used] = guided(masks[:, used], images, max(round(radius * max(size) / FRAME), 1))
    else:
        found[:, used] = on_image(masks[:, used], size)
    return found


class Finish(NamedTuple):
    """What is done to a model's masks after it, as its row in figures/results has it."""

    threshold: float  # of `merge`
    radius: int  # of `guided`, in px of a frame of MOVi-A


def finish(name: str, header: dict[str, Any]) -> Finish:
    """How the masks of a model are merged and refined in the tables; nothing is merged where it has no row there."""
    file, params = MERGED.get(name, ("", {}))
    path = ROOT / "figures" / "results" / f"{file}.json"
    if not file or not path.exists():
        return Finish(0.0, RADIUS)
    params = params | {"seed": header["seed"]}
    rows = [r for r in json.loads(path.read_text())["rows"] if params.items() <= r["params"].items()]
    rows.sort(key=lambda r: r["params"].get("steps") == header["config"]["recipe"]["steps"])  # the last is the nearest
    if not rows:
        return Finish(0.0, RADIUS)
    found = rows[-1]["metrics"] | rows[-1]["params"]
    return Finish(float(found["threshold"]), int(found.get("radius", RADIUS)))


def png(ids: np.ndarray) -> bytes:
    """Ids `[H, W]` below 256 as a PNG that holds them, in the colours of the workbook's slots."""
    again, slot = np.divmod(np.arange(256), len(plots.SLOT_RGB))
    palette = 255 * plots.SLOT_RGB[slot] * 0.7 ** again[:, None]
    image, buffer = Image.fromarray(ids.astype(np.uint8)).convert("P"), io.BytesIO()
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    image.save(buffer, "PNG")
    return buffer.getvalue()


def npz(**content: np.ndarray) -> bytes:
    """Arrays as the bytes of a compressed NPZ."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    return buffer.getvalue()
