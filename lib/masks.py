"""After the model: slots that hold one thing are merged, masks are drawn to the image's edges, or made hard.

Nothing here is trained. What a step does to the numbers is reported beside the numbers without it; trained controls get
both steps, others, which have no slots to merge, the edges. Introduced in notebooks/ex_dino4.ipynb.
"""

import numpy as np
import torch
from kornia.filters import guided_blur
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from lib.metrics.objects import finite
from lib.models.dinosaur import on_image


def merge(masks: Tensor, slots: Tensor, frames: Tensor | None, threshold: float, reach: float = 3.0) -> Tensor:
    """Add up the masks of slots that are alike and near each other (agglomerative, as in SOLV, Aydemir et al. 2023).

    The distance of two slots is that of their vectors at unit length (0 to 2) and, with frames, of their centres,
    which count `reach * threshold` times, so that equal things far apart stay apart: the root of the sum of squares.
    In a video it is averaged over time, so that slots are merged for all of it or not at all.

    Args:
        masks: `[B, K, ...]`, or `[B, T, K, ...]` of videos; sums to one over K.
        slots: `[B, K, D]` or `[B, T, K, D]`.
        frames: `[B, K, 3]` or `[B, T, K, 3]`, see `Grouping`. None: place does not count.
        threshold: average distance up to which clusters of slots are joined; 0 joins nothing.

    Returns:
        Masks of the same shape; a slot that was merged into another is left with zeros.
    """
    finite("masks", masks)
    video = slots.ndim == 4
    features = normalize(finite("slots", slots), dim=-1)
    if frames is not None:
        features = torch.cat([features, reach * threshold * finite("frames", frames)[..., :2]], dim=-1)
    distances = torch.cdist(features, features)  # [B, (T,) K, K]
    distances = (distances.mean(1) if video else distances).cpu().numpy()
    clusters = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=threshold)
    merged = []
    for mask, apart in zip(masks, distances, strict=True):
        groups = clusters.fit_predict(apart) if threshold > 0 and len(apart) > 1 else np.arange(len(apart))
        merged.append(_added(mask, groups, 1 if video else 0))
    return torch.stack(merged)


def merge_overlapping(masks: Tensor, least: float = 0.6) -> Tensor:
    """Add up the masks of slots that look at one place: a rule that no label chose (as in SSync).

    Each slot's mask is made binary at its own mean, over time too; slots whose binary masks overlap with an IoU above
    `least`, averaged over frames, are joined, and so is what they are joined with. Made for attention before it is
    hard: certain masks share no place.

    Args:
        masks: `[B, K, ...]`, or `[B, T, K, N]` of videos.

    Returns:
        Masks of the same shape; a slot that was joined to another is left with zeros.
    """
    video = masks.ndim == 4
    flat = finite("masks", masks).flatten(3 if video else 2)
    over = flat if video else flat[:, None]  # [B, T, K, N]
    binary = (over > over.mean((1, 3), keepdim=True)).float()
    shared = binary @ binary.mT
    size = binary.sum(-1)
    iou = (shared / (size[..., None] + size[..., None, :] - shared).clamp(min=1)).mean(1)
    joined = []
    for mask, near in zip(masks, (iou > least).cpu().numpy(), strict=True):
        _, groups = connected_components(near)
        joined.append(_added(mask, groups, 1 if video else 0))
    return torch.stack(joined)


def _added(mask: Tensor, groups: np.ndarray, dim: int) -> Tensor:
    """The masks of each group added up under the number of its first slot, zeros for the others."""
    _, first, which = np.unique(groups, return_index=True, return_inverse=True)
    return torch.zeros_like(mask).index_add(dim, torch.as_tensor(first[which], device=mask.device), mask)


def guided(masks: Tensor, images: Tensor, radius: int = 12, smoothness: float = 1e-3) -> Tensor:
    """Masks redrawn as locally linear functions of the image, so that their edges are its edges.

    The guided filter (He, Sun and Tang 2013) through kornia.

    Args:
        masks: `[B, K, N]` on a token grid, or `[B, K, h, w]`; they grow bilinearly to the image first.
        images: `[B, 3, H, W]` in 0..1.
        radius: of the window in pixels; smoothness: variance of colour below which the image counts as flat.

    Returns:
        `[B, K, H, W]`, not negative, sums to one over K.
    """
    masks = masks.flatten(2)
    for name, values in (("masks", masks), ("images", images)):
        finite(name, values)
    images = images.to(masks.device)
    grown = torch.cat([on_image(m[None], tuple(images.shape[-2:])) for m in masks])
    # One image at a time: kornia's buffers grow with masks x colours, and the cache is small.
    drawn = torch.cat(
        [guided_blur(i[None], m[None], 2 * radius + 1, smoothness) for i, m in zip(images, grown, strict=True)]
    )
    drawn = drawn.clamp(min=0)
    return drawn / drawn.sum(1, keepdim=True).clamp(min=1e-6)


def harden(masks: Tensor) -> Tensor:
    """Masks `[B, K, ...]` made one-hot over slots: the largest wins. Raises ValueError where one is not finite."""
    return one_hot(finite("masks", masks).argmax(1), masks.shape[1]).movedim(-1, 1).to(masks.dtype)
