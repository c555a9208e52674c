"""The feature series' one experiment: slots on the frozen tokens of MOVi-A scenes, trained and measured.

Shared by ex_dino1 to ex_dino4, ex_comparison and backbone_comparison, so that a checkpoint trained in one is the
checkpoint loaded in another.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lib import parallel
from lib.features import Split, ahead
from lib.masks import guided, merge, merge_overlapping
from lib.metrics import objects
from lib.models.dinosaur import Dinosaur, on_image
from lib.models.token_decoders import positions_of
from lib.models.video import slot_contrast
from lib.training import Fitted, Recipe, Run, State, fit, indices, load_or_train

#: What is reported of every model, beside `logit_sd`, `slot_diversity` and `loss`.
KEYS = ("fg_ari", "ari", "mbo", "miou", "mask_similarity", "active_slots")


@dataclass(frozen=True)
class TrainConfig:
    """What distinguishes one training from another; the defaults are the workbook's own model.

    Args:
        model: arguments of `Dinosaur`, where they differ from its defaults.
        area: weight of the sum over slots of the square root of their mask's share of the image: one large
            background is cheaper than many parts. Above 0.03 it merges everything before slots have parted.
        diversity: weight of the mean cosine between slot vectors, the original's loss against collapse.
        sample: so many random positions of an image are decoded a step, where the decoder allows it; 0 means all.
    """

    model: dict[str, Any] = field(default_factory=dict)
    area: float = 0.01
    diversity: float = 0.0
    sample: int = 128


@dataclass(frozen=True)
class ImageConfig(TrainConfig):
    """A training on images; `coarse` is the share of its steps on tokens averaged 2 x 2, before the full grid."""

    coarse: float = 0.6


def train(
    name: str,
    data: Split,
    config: ImageConfig,
    recipe: Recipe,
    *,
    held_out: Split | None = None,
    watch_every: int = 0,
    device: str = "auto",
    network: Callable[..., nn.Module] = Dinosaur,
) -> Run:
    """Load or train one model (see `load_or_train`); the held-out split is watched only, on its first 32 images.

    `network` stands in for `Dinosaur` and takes its arguments; it may be a `partial` of a class.
    """
    made = {"network": getattr(network, "func", network).__name__} | getattr(network, "keywords", {})
    watched = None if held_out is None else {"data": held_out.fingerprint, "every": watch_every}

    def batch(step: int) -> Tensor:
        tokens = data.features.batch(parallel.shared(indices(recipe, step, data.count)))
        return pool(tokens, data.features.grid[0] // 2) if step < config.coarse * recipe.steps else tokens

    def watch(net: nn.Module, step: int) -> dict[str, float | Tensor]:
        seen = measure(net, held_out, images=np.arange(min(32, held_out.count)))
        return {k: float(np.nanmean(v)) for k, v in seen.items() if k in KEYS}

    def fit_it(model: nn.Module, state: State) -> Fitted:
        how = {"watch": watch, "watch_every": watch_every} if held_out and held_out.features else {}  # computed here
        tokens = ahead(batch, data.features)
        return fitted(model, state, tokens, data.features, config, recipe, device=device, label=name, **how)

    about = {"rules": asdict(config), "network": made, "tokens": data.about, "images": data.count, "watched": watched}
    return load_or_train(
        name, lambda: network(data.dim, **config.model), fit_it, recipe, about, data.fingerprint, device
    )


def fitted(
    model: nn.Module,
    state: State | None,
    batch: Callable[[int], Tensor],
    normalised: Any,
    config: TrainConfig,
    recipe: Recipe,
    **how: Any,
) -> Fitted:
    """Train a model of tokens in place; the one training of images, clips and pixels.

    Args:
        batch: the tokens of a step, `[B, N, C]`, or clips of them, `[B, T, N, C]`.
        normalised: has the `mean` and `std` of the tokens, which the model keeps; None: it has them already.
        how: see `training.fit`.
    """
    image_model = getattr(model, "image_model", model)
    if normalised is not None:
        image_model.mean.copy_(normalised.mean)
        image_model.std.copy_(normalised.std)

    def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(net, batch(step).to(image_model.mean.device), config)

    return fit(model, loss, recipe, state=state, **how)


def objective(net: nn.Module, tokens: Tensor, config: TrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of tokens `[B, N, C]`, or of clips of them `[B, T, N, C]`, and what to log.

    The positions to decode come from torch's generator.
    """
    target, positions, count = net.target(tokens), None, tokens.shape[-2]
    side = int(count**0.5)
    if 0 < config.sample < count:
        chosen = torch.rand(tokens.shape[:-1], device=tokens.device).argsort(-1)[..., : config.sample]
        positions = positions_of((side, side), tokens.device)[chosen]
        target = target.gather(-2, chosen[..., None].expand(*chosen.shape, target.shape[-1]))
    found = net(tokens, positions)
    error = (found.reconstruction.float() - target).square().mean()
    value = error
    if config.area:
        value = value + config.area * (found.masks.mean(-1) + 1e-6).sqrt().sum(-1).mean()
    if config.diversity:
        value = value + config.diversity * cosine(found.slots.float().flatten(0, -3)).mean()
    logged = {"error": error, "mask_certainty": found.masks.detach().amax(-2).mean()}
    if tokens.ndim == 4 and config.contrast:
        contrast = slot_contrast(found.slots.float())
        value, logged["contrast"] = value + config.contrast * contrast, contrast
    return value, logged


def cosine(vectors: Tensor) -> Tensor:
    """Mean cosine between different rows of `[B, K, D]`, `[B]`, with gradients."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    total = torch.einsum("bkd,bjd->b", unit, unit)
    count = vectors.shape[1]
    return (total - count) / max(count * (count - 1), 1)


def pool(tokens: Tensor, side: int) -> Tensor:
    """Tokens `[B, N, C]` averaged to `side` x `side`."""
    now = int(tokens.shape[1] ** 0.5)
    maps = tokens.transpose(1, 2).unflatten(2, (now, now))
    return avg_pool2d(maps, now // side).flatten(2).transpose(1, 2)


def masks_of(
    model: nn.Module, data: Split, images: np.ndarray, kind: str = "attention", seed: int = 0
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Masks `[n, K, N]` of the images numbered `images` (scene x T + frame), and values an image beside them.

    Args:
        kind: "attention", Slot Attention's own masks, or "decoder", the mixing weights.
        seed: of the slots' starting noise, so that the same call gives the same masks.
    """
    parts = [(found.masks.cpu(), values) for _, found, values in _see(model, data, images, kind, seed)]
    return torch.cat([masks for masks, _ in parts]), joined([values for _, values in parts])


def measure(
    model: nn.Module, data: Split, images: np.ndarray | None = None, kind: str = "attention", seed: int = 0
) -> dict[str, np.ndarray]:
    """`objects.evaluate` at the images' resolution, and `loss`, `slot_diversity` and `logit_sd`: `[n]` each.

    One pass, some images at a time; of all images if None.
    """
    rows = []
    for part, found, values in _see(model, data, images, kind, seed):
        rows.append(objects.evaluate(data.ids(part), on_image(found.masks, data.shape[2:])) | values)
    return joined(rows)


def joined(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Values of some images after each other."""
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


#: Thresholds of `merge`; 0 merges nothing.
THRESHOLDS = (0.0, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)


def stages(
    model: nn.Module,
    data: Split,
    threshold: float,
    images: np.ndarray | None = None,
    kind: str = "attention",
    radius: int = 12,
) -> dict[str, Tensor]:
    """Masks on the images `[n, K, H, W]`: "raw", "label_free" (slots that look at one place), "merged"
    (slots that are alike), and "refined": those at image edges.

    The threshold of `merge` is `choose_threshold`'s, from another split; `radius` is that of `guided`, in pixels. They
    stay in memory: for the images that are drawn, and for those of held-out scenes.
    """
    parts = [masks for _, masks in _stages(model, data, threshold, images, kind, radius)]
    return {stage: torch.cat([masks[stage].cpu() for masks in parts]) for stage in parts[0]}


def tried(model: nn.Module, data: Split, kind: str = "attention") -> dict[float, tuple[float, float]]:
    """FG-ARI and mBO of a split's images under each of `THRESHOLDS` of `merge`, unrefined."""
    scores: dict[float, list[list[float]]] = {threshold: [] for threshold in THRESHOLDS}
    for part, found, _ in _see(model, data, None, kind):
        truth = data.ids(part).numpy()
        for threshold, rows in scores.items():
            merged = on_image(merge(found.masks, found.slots, found.frames, threshold), data.shape[2:])
            pairs = zip(truth, merged.argmax(1).cpu().numpy(), strict=True)
            rows += [[objects.fg_ari(*pair), objects.mbo(*pair)] for pair in pairs]
    return {threshold: tuple(np.nanmean(rows, 0).tolist()) for threshold, rows in scores.items()}


def choose_threshold(scores: dict[float, tuple[float, float]]) -> float:
    """The threshold of `merge` with the largest sum of FG-ARI and mBO; the split of `tried` is one no table reports."""
    return max(scores, key=lambda threshold: sum(scores[threshold]))


class _Seen(NamedTuple):
    masks: Tensor  # [n, K, N]
    slots: Tensor  # [n, K, D]
    frames: Tensor | None  # [n, K, 3]


@torch.no_grad()
def _see(
    model: nn.Module, data: Split, images: np.ndarray | None, kind: str, seed: int = 0
) -> Iterator[tuple[np.ndarray, _Seen, dict[str, np.ndarray]]]:
    """Some images at a time: their numbers, what the model makes of them, on its device, and values `[n]`."""
    torch.manual_seed(seed)
    images = np.arange(data.count) if images is None else np.asarray(images)
    for part in np.array_split(images, max(1, len(images) // 16)):
        tokens = data.features.batch(part)
        found = model(tokens)
        # Up to what all slots share, the logarithm of a mask is its logit.
        values = {
            "loss": (found.reconstruction.float() - model.target(tokens)).square().mean((1, 2)),
            "slot_diversity": cosine(found.slots.float()),
            "logit_sd": found.masks.float().clamp(min=1e-12).log().std(1).mean(-1),
        }
        masks = found.attention if kind == "attention" else found.masks
        frames = None if found.frames is None else found.frames.float()
        seen = _Seen(masks.float(), found.slots.float(), frames)
        yield part, seen, {k: v.cpu().numpy() for k, v in values.items()}


def _stages(
    model: nn.Module, data: Split, threshold: float, images: np.ndarray | None, kind: str, radius: int
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Some images at a time: their numbers, and their masks at each of the `stages`, on the model's device."""
    for part, found, _ in _see(model, data, images, kind):
        merged, size = merge(found.masks, found.slots, found.frames, threshold), data.shape[2:]
        label_free, refined = merge_overlapping(found.masks), guided(merged, data.pictures(part), radius)
        grown = {"raw": found.masks, "label_free": label_free, "merged": merged}
        yield part, {stage: on_image(masks, size) for stage, masks in grown.items()} | {"refined": refined}


def report(
    model: nn.Module, validation: Split, test: Split, kind: str = "attention", radius: int = 12
) -> dict[str, dict[str, float] | float]:
    """Means over the images of `test` of every measure at each of the `stages`; the "threshold" from validation, and
    what was "tried" there: thresholds, FG-ARI and mBO. `radius` is that of `guided`, in pixels.
    """
    scores, rows = tried(model, validation, kind), {}
    threshold = choose_threshold(scores)
    for part, masks in _stages(model, test, threshold, None, kind, radius):
        truth = test.ids(part)
        for stage, soft in masks.items():
            rows.setdefault(stage, []).append(objects.evaluate(truth, soft))
    curve = [[t, *pair] for t, pair in scores.items()]
    return {stage: means(joined(each)) for stage, each in rows.items()} | {"threshold": threshold, "tried": curve}


def scores(masks: Tensor, truth: Tensor) -> dict[str, float]:
    """`objects.evaluate`, mean over images that have something to measure."""
    return means(objects.evaluate(truth, masks))


def means(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over images that have something to measure, NaN where none has."""
    return {k: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for k, v in values.items()}
