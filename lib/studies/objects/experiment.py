"""The feature series' one experiment: slots on the frozen tokens of MOVi-A scenes, trained and measured.

Shared by ex_dino1 to ex_dino4, ex_comparison and backbone_comparison, so that a checkpoint trained in one is the
checkpoint loaded in another.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lib.features import Split
from lib.masks import guided, merge
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
        tokens = data.features.batch(indices(recipe, step, data.count))
        return pool(tokens, data.features.grid[0] // 2) if step < config.coarse * recipe.steps else tokens

    def watch(net: nn.Module, step: int) -> dict[str, float | Tensor]:
        seen = measure(net, held_out, images=np.arange(32))
        return {k: float(np.nanmean(v)) for k, v in seen.items() if k in KEYS}

    def fit_it(model: nn.Module, state: State) -> Fitted:
        how = {"watch": watch, "watch_every": watch_every} if held_out and held_out.features else {}  # computed here
        return fitted(model, state, batch, data.features, config, recipe, device=device, label=name, **how)

    about = {"rules": asdict(config), "network": made, "tokens": data.about, "images": data.count, "watched": watched}
    return load_or_train(name, lambda: network(data.dim, **config.model), fit_it, recipe, about, data.fingerprint)


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

    def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        return objective(net, batch(step).to(image_model.mean.device), config)

    return fit(model, loss, recipe, state=state, **how)


def objective(net: nn.Module, tokens: Tensor, config: TrainConfig) -> tuple[Tensor, dict[str, float]]:
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
    logged = {"error": error.item(), "mask_certainty": found.masks.detach().amax(-2).mean().item()}
    if tokens.ndim == 4 and config.contrast:
        contrast = slot_contrast(found.slots.float())
        value, logged["contrast"] = value + config.contrast * contrast, contrast.item()
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
    masks, _, _, values = _see(model, data, images, kind, seed)
    return masks, values


def measure(
    model: nn.Module, data: Split, images: np.ndarray | None = None, kind: str = "attention", seed: int = 0
) -> dict[str, np.ndarray]:
    """`objects.evaluate` at the images' resolution, and `loss`, `slot_diversity` and `logit_sd`: `[n]` each."""
    _, truth = data.images()
    images = np.arange(len(truth)) if images is None else images
    masks, values = masks_of(model, data, images, kind, seed)
    return objects.evaluate(truth[images], on_image(masks, truth.shape[-2:])) | values


#: What `choose_threshold` tries; 0 merges nothing.
THRESHOLDS = (0.0, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)


@torch.no_grad()
def stages(
    model: nn.Module, data: Split, threshold: float, images: np.ndarray | None = None, kind: str = "attention"
) -> dict[str, Tensor]:
    """Masks on the images `[n, K, H, W]`: "raw", "merged" (slots that are alike), and "refined": those at image edges.

    The threshold of `merge` is `choose_threshold`'s, from another split.
    """
    pixels, truth = data.images()
    images = np.arange(len(truth)) if images is None else images
    masks, slots, frames, _ = _see(model, data, images, kind)
    size = tuple(truth.shape[-2:])
    merged = merge(masks, slots, frames, threshold)
    return {
        "raw": on_image(masks, size),
        "merged": on_image(merged, size),
        "refined": guided(merged, pixels[images]),
    }


@torch.no_grad()
def choose_threshold(model: nn.Module, data: Split, kind: str = "attention") -> float:
    """The threshold of `merge` with the largest sum of FG-ARI and mBO on a split that no table reports."""
    _, truth = data.images()
    masks, slots, frames, _ = _see(model, data, np.arange(len(truth)), kind)
    scores = {}
    for threshold in THRESHOLDS:
        merged = on_image(merge(masks, slots, frames, threshold), tuple(truth.shape[-2:]))
        pairs = list(zip(truth.numpy(), merged.argmax(1).numpy(), strict=True))
        scores[threshold] = sum(np.nanmean([f(*pair) for pair in pairs]) for f in (objects.fg_ari, objects.mbo))
    return max(scores, key=scores.get)


@torch.no_grad()
def _see(model: nn.Module, data: Split, images: np.ndarray, kind: str, seed: int = 0) -> tuple:
    """Masks `[n, K, N]`, slots `[n, K, D]`, frames `[n, K, 3]` or None, and values `[n]` of the images."""
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    parts, values = [], {"loss": [], "slot_diversity": [], "logit_sd": []}
    for part in np.array_split(images, max(1, len(images) // 16)):
        tokens = data.features.batch(part).to(device)
        found = model(tokens)
        parts.append((found.attention if kind == "attention" else found.masks, found.slots, found.frames))
        values["loss"].append((found.reconstruction.float() - model.target(tokens)).square().mean((1, 2)))
        values["slot_diversity"].append(cosine(found.slots.float()))
        # Up to what all slots share, the logarithm of a mask is its logit.
        values["logit_sd"].append(found.masks.float().clamp(min=1e-12).log().std(1).mean(-1))
    masks, slots, frames = (None if p[0] is None else torch.cat(p).float().cpu() for p in zip(*parts, strict=True))
    return masks, slots, frames, {k: torch.cat(v).cpu().numpy() for k, v in values.items()}


def report(
    model: nn.Module, validation: Split, test: Split, kind: str = "attention"
) -> dict[str, dict[str, float] | float]:
    """Means over the images of `test` of every measure at each of the `stages`, and the "threshold" from validation."""
    threshold = choose_threshold(model, validation, kind)
    truth = test.images()[1]
    found = {s: scores(masks, truth) for s, masks in stages(model, test, threshold, kind=kind).items()}
    return found | {"threshold": threshold}


def scores(masks: Tensor, truth: Tensor) -> dict[str, float]:
    """`objects.evaluate`, mean over images that have something to measure."""
    return {k: float(np.nanmean(v)) for k, v in objects.evaluate(truth, masks).items()}
