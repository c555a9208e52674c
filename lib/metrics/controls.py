"""Partitions that know nothing of objects. A model that does not beat them has not found any.

Both return one-hot masks `[B, K, H, W]`, to be handed to `objects.evaluate` like a model's.
"""

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import one_hot

from lib.metrics.objects import finite


def blocks(batch: int, size: int, side: int) -> Tensor:
    """A `side` x `side` grid of equal blocks, the same for every image: position alone.

    Introduced in notebooks/ex_slot1.ipynb.
    """
    row = torch.arange(size) * side // size
    return _masks((row[:, None] * side + row).expand(batch, -1, -1), side**2)


def kmeans_rgb(images: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """k-means of each image's colours, images `[B, 3, H, W]`: colour alone.

    Introduced in notebooks/ex_slot2.ipynb. Fewer distinct colours than clusters leave clusters empty.
    """
    labels = []
    for image in finite("images", images):
        pixels = image.flatten(1).T.double().cpu().numpy()
        k = min(clusters, len(np.unique(pixels, axis=0)))
        with threadpool_limits(1):  # so few points: threads would only wait for each other
            found = KMeans(k, n_init=3, random_state=seed).fit_predict(pixels)
        labels.append(torch.from_numpy(found).long().view(image.shape[-2:]))
    return _masks(torch.stack(labels), clusters)


def _masks(labels: Tensor, slots: int) -> Tensor:
    return one_hot(labels, slots).movedim(-1, 1).float()
