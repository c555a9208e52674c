"""After the model: slots that hold one thing are merged, masks are drawn to the picture's edges, or made hard.

Nothing here is trained. What a step does to the numbers is reported beside the numbers without it, and the controls
get the same treatment. Introduced in notebooks/ex_dino4.ipynb.
"""

import numpy as np
import torch
from kornia.filters import guided_blur
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch.nn.functional import gumbel_softmax, normalize, one_hot

from lib.models.dinosaur import on_image


def merge(masks: Tensor, slots: Tensor, frames: Tensor | None, threshold: float, reach: float = 3.0) -> Tensor:
    """Add up the masks of slots that are alike and near each other (agglomerative, as in SOLV, Aydemir et al. 2023).

    Args:
        masks: `[B, K, ...]`, sums to one over K.
        slots: `[B, K, D]`; alike is a small distance between them at unit length (0 to 2).
        frames: `[B, K, 3]`, see `Grouping`; a distance between centres counts `reach * threshold` times, so that
            equal things far apart stay apart. None: place does not count.
        threshold: average distance up to which clusters of slots are joined; 0 joins nothing.

    Returns:
        Masks of the same shape; a slot that was merged into another is left with zeros.
    """
    features = normalize(slots.detach().float(), dim=-1)
    if frames is not None:
        features = torch.cat([features, reach * threshold * frames[..., :2].float()], dim=-1)
    merged = torch.zeros_like(masks)
    clusters = AgglomerativeClustering(None, distance_threshold=threshold, linkage="average")
    for out, mask, vectors in zip(merged, masks, features.cpu().numpy(), strict=True):
        labels = clusters.fit_predict(vectors) if threshold > 0 else np.arange(len(vectors))
        _, first, groups = np.unique(labels, return_index=True, return_inverse=True)
        out.index_add_(0, torch.as_tensor(first[groups], device=mask.device), mask)  # under the first one's number
    return merged


def guided(masks: Tensor, images: Tensor, radius: int = 12, smoothness: float = 1e-3) -> Tensor:
    """Masks redrawn as locally linear functions of the picture, so that their edges are its edges.

    The guided filter (He, Sun and Tang 2013) through kornia.

    Args:
        masks: `[B, K, N]` on a token grid, or `[B, K, h, w]`; they grow bilinearly to the picture first.
        images: `[B, 3, H, W]` in 0..1.
        radius: of the window in pixels; smoothness: variance of colour below which the picture counts as flat.

    Returns:
        `[B, K, H, W]`, not negative, sums to one over K.
    """
    masks = masks.flatten(2)
    grown = torch.cat([on_image(m[None], tuple(images.shape[-2:])) for m in masks])
    # One picture at a time: kornia's buffers grow with masks x colours, and the cache is small.
    drawn = torch.cat(
        [guided_blur(i[None], m[None], 2 * radius + 1, smoothness) for i, m in zip(images, grown, strict=True)]
    )
    drawn = drawn.clamp(min=0)
    return drawn / drawn.sum(1, keepdim=True).clamp(min=1e-6)


def harden(masks: Tensor, how: str = "argmax", temperature: float = 1.0) -> Tensor:
    """Masks `[B, K, ...]` made one-hot over slots.

    Args:
        how: "argmax", or "gumbel": a sample from each position's distribution (Jang et al. 2017), hard forwards and
            soft backwards, so it can be trained through; draws from torch's generator.
        temperature: of the Gumbel-softmax.

    Raises:
        ValueError: another name.
    """
    if how == "argmax":
        return one_hot(masks.argmax(1), masks.shape[1]).movedim(-1, 1).to(masks.dtype)
    if how == "gumbel":
        return gumbel_softmax(masks.clamp(min=1e-12).log(), tau=temperature, hard=True, dim=1)
    raise ValueError(f"how is {how!r}; choose argmax or gumbel")
