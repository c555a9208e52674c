"""Tracking: an image model that carries its slots from frame to frame, trained on clips, measured on whole videos.

Shared by ex_dino3 and ex_dino4.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lib import checkpoints, parallel
from lib.features import Split, ahead
from lib.masks import guided, merge
from lib.metrics import controls, objects, tracking
from lib.models.dinosaur import Dinosaur, on_image
from lib.models.video import Tracked, VideoModel
from lib.studies.objects.experiment import TrainConfig, fitted
from lib.training import Fitted, Recipe, Run, State, indices, load_or_train


@dataclass(frozen=True)
class ClipConfig(TrainConfig):
    """What distinguishes one way of tracking from another; `sample` counts positions of a frame.

    Args:
        video: arguments of `VideoModel`, where they differ from its defaults.
        contrast: weight of `slot_contrast`.
        clip: frames a clip.
    """

    sample: int = 64
    video: dict[str, Any] = field(default_factory=dict)
    contrast: float = 0.0
    clip: int = 4


def train(
    name: str, data: Split, config: ClipConfig, recipe: Recipe, *, start: Run | None = None, device: str = "auto"
) -> Run:
    """Load or train one video model (see `load_or_train`) on clips of consecutive frames at random places.

    Introduced in notebooks/ex_dino3.ipynb.

    Args:
        start: a trained image model to begin from; None begins from nothing.

    Raises:
        ValueError: videos are shorter than a clip.
    """
    about = {"rules": asdict(config), "tokens": data.about, "images": data.count, "start": None}
    if start is not None:
        known = {k: start.header.get(k) for k in ("config", "data")}
        about["start"] = {"weights": checkpoints.digest(start.model.state_dict())} | known

    def build() -> nn.Module:
        image = Dinosaur(data.dim, **config.model)
        if start is not None:
            image.load_state_dict(start.model.state_dict())
        return VideoModel(image, **config.video)

    def fit_it(model: nn.Module, state: State) -> Fitted:
        scenes, frames = data.features.tokens.shape[:2]
        starts = frames - config.clip + 1
        if starts < 1:
            raise ValueError(f"{name}: videos have {frames} frames, clips {config.clip}; take shorter clips")

        def batch(step: int) -> Tensor:
            drawn = indices(recipe, step, scenes * starts).numpy()
            if not config.contrast:  # which compares all videos of the batch
                drawn = parallel.shared(drawn)
            first, scene = np.divmod(drawn, scenes)
            return data.features.clips(scene, first, config.clip)

        normalised = data.features if start is None else None
        return fitted(model, state, ahead(batch, data.features), normalised, config, recipe, device=device, label=name)

    return load_or_train(name, build, fit_it, recipe, about, data.fingerprint, device)


@torch.no_grad()
def track(
    model: VideoModel, data: Split, scenes: np.ndarray, seed: int = 0, kind: str = "attention", cyclic: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Masks `[S, T, K, N]`, slots `[S, T, K, D]` and places `[S, T, K, 3]` or None of whole videos, on the device.

    They are those of a single pass, which sees no frame that comes later, or, if `cyclic`, of `there_and_back`.
    """
    torch.manual_seed(seed)
    parts, run = [], there_and_back if cyclic else VideoModel.__call__
    for part in np.array_split(scenes, max(1, len(scenes) // 4)):
        found = run(model, data.features.clips(part))
        parts.append((found.attention if kind == "attention" else found.masks, found.slots, found.places))
    return tuple(None if p[0] is None else torch.cat(p).float() for p in zip(*parts, strict=True))


def there_and_back(model: VideoModel, tokens: Tensor) -> Tracked:
    """What a model finds in videos `[B, T, N, C]` on the way back, when it is shown them and then in reverse.

    Slots have seen the whole video before they enter a frame: objects that come late have a slot from the start.
    """
    found = model(torch.cat([tokens, tokens.flip(1)], 1))
    return Tracked(*(None if part is None else part[:, tokens.shape[1] :].flip(1) for part in found))


def max_activation(masks: Tensor) -> np.ndarray:
    """Largest value of each slot's mask over positions, mean over slots, in each frame: `[T]`, in 0..1.

    Args:
        masks: `[T, K, ...]`. Uniform masks score 1 / K, the value of full collapse.
    """
    return objects.finite("masks", masks).double().flatten(2).amax(-1).mean(1).cpu().numpy()


def slot_similarity(slots: Tensor) -> np.ndarray:
    """`objects.mean_pairwise_cosine` of slots `[T, K, D]` in each frame: `[T]`, in -1..1; 1 is full collapse."""
    return np.array([objects.mean_pairwise_cosine(frame) for frame in objects.finite("slots", slots)])


def measure(
    found: tuple[Tensor, Tensor, Tensor | None],
    data: Split,
    scenes: np.ndarray,
    *,
    threshold: float = 0.0,
    refined: int = 0,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Means over videos, and means over videos in each frame.

    Args:
        found: what `track` returned for `scenes`.
        threshold: of `merge`, for a whole video at once; 0 merges nothing.
        refined: redraw masks along the edges of the image, with `guided` of this radius in pixels; 0 does not.

    Returns:
        `{"video_fg_ari", "video_mbo", "fg_ari", "mbo", "identity_switches", "keep_length", ...}` and
        `{"max_activation", "slot_similarity", "fg_ari"}`, lists of T. `active_slots` counts those that win at least
        1 % of a whole video; `mask_similarity` is that of the masks at token resolution, before merging.
    """
    masks, slots, places = found
    rows, frames = [], []
    for i, s in enumerate(scenes):
        here = None if places is None else places[i : i + 1]
        merged = merge(masks[i : i + 1], slots[i : i + 1], here, threshold)[0]
        full = guided(merged, _images(data, s), refined) if refined else on_image(merged, data.shape[2:])
        row, each = of_winners(full.argmax(1).cpu().numpy(), data.scene(s).masks)
        rows.append(row | {"mask_similarity": float(np.mean([objects.mask_similarity(m) for m in masks[i]]))})
        values = {"max_activation": max_activation(masks[i]), "fg_ari": np.array(each["fg_ari"])}
        frames.append(values | {"slot_similarity": slot_similarity(slots[i])})
    means = {k: float(np.nanmean([r[k] for r in rows])) for k in rows[0]}
    return means, {k: np.nanmean([f[k] for f in frames], axis=0).tolist() for k in frames[0]}


#: Thresholds of `merge` that `report` tries.
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6)


def report(model: VideoModel, validation: Split, test: Split, radius: int = 12, cyclic: bool = False) -> dict[str, Any]:
    """`measure` of all test videos: "raw", "merged" and "refined"; the raw ones' "frames", and the "threshold".

    The threshold of `merge` has the largest sum of video FG-ARI and mBO on a quarter of the validation videos;
    `cyclic` as of `track`.
    """
    few, every = np.arange(0, validation.shape[0], 4), np.arange(test.shape[0])
    found, tried = track(model, validation, few, cyclic=cyclic), {}
    for threshold in THRESHOLDS:
        means, _ = measure(found, validation, few, threshold=threshold)
        tried[threshold] = means["video_fg_ari"] + means["video_mbo"]
    threshold = max(tried, key=tried.get)
    found = track(model, test, every, cyclic=cyclic)
    raw, frames = measure(found, test, every)
    merged, _ = measure(found, test, every, threshold=threshold)
    refined, _ = measure(found, test, every, threshold=threshold, refined=radius)
    return {"raw": raw, "merged": merged, "refined": refined, "frames": frames, "threshold": threshold}


def of_winners(winners: np.ndarray, truth: np.ndarray) -> tuple[dict[str, float], dict[str, list[float]]]:
    """What `measure` says of one video that needs nothing but which slot wins each pixel, ids `[T, H, W]` both.

    Returns:
        Its row, and FG-ARI, ARI and mBO of each frame.
    """
    each = {k: [f(t, w) for t, w in zip(truth, winners, strict=True)] for k, f in _EACH.items()}
    means = {k: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for k, v in each.items()}
    row = {f"video_{k}": f(truth, winners) for k, f in _EACH.items()} | means
    row["video_fg_ari_renamed"] = objects.fg_ari(truth, renamed(truth, winners))
    row["active_slots"] = int((np.unique(winners, return_counts=True)[1] >= 0.01 * winners.size).sum())
    row["identity_switches"] = tracking.identity_switches(truth, winners)
    return row | {"keep_length": tracking.keep_length(truth, winners)}, each


def renamed(truth: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """Winners `[T, H, W]` under the names that an oracle gives them, frame by frame: what is left is no swap.

    In each frame slots are matched to objects one to one by IoU (Hungarian); a slot without an object keeps its name.
    """
    names, free = np.empty(winners.shape, np.int64), int(truth.max()) + 1
    for t, (ids, slots) in enumerate(zip(truth, winners, strict=True)):
        present, held = np.unique(ids[ids > 0]), np.unique(slots)
        new = dict(zip(held.tolist(), (held + free).tolist(), strict=True))
        for i, k in zip(*linear_sum_assignment(-objects.iou_matrix(ids, slots)), strict=True):
            new[int(held[k])] = int(present[i])
        names[t] = np.vectorize(new.get)(slots)
    return names


def static(data: Split, scenes: np.ndarray, control: str) -> dict[str, float]:
    """A partition that knows nothing of objects nor of time, measured as `measure` does a model.

    Args:
        control: "blocks", a 3 x 3 grid that is held for the whole video, or "kmeans_rgb", nine clusters of the colours
            of all frames together, averaged to 32 x 32 places, one start.
    """
    size, rows = data.shape[2:], []
    for s in scenes:
        frames = _images(data, s)
        if control == "blocks":
            masks = controls.blocks(len(frames), size[0], 3)
        else:
            small = adaptive_avg_pool2d(frames, 32).transpose(0, 1).flatten(1, 2)  # frames below each other
            masks = controls.kmeans_rgb(small[None], 9)[0].unflatten(1, (len(frames), 32)).transpose(0, 1)
            masks = on_image(masks.flatten(2), size)
        rows.append(of_winners(masks.argmax(1).numpy(), data.scene(s).masks)[0])
    return {k: float(np.nanmean([r[k] for r in rows])) for k in rows[0]}


def _images(data: Split, scene: int) -> Tensor:
    """The frames of a video, `[T, 3, H, W]` in 0..1."""
    return torch.from_numpy(data.scene(scene).video).permute(0, 3, 1, 2).float() / 255


_EACH = {"fg_ari": objects.fg_ari, "ari": objects.ari, "mbo": objects.mbo}
