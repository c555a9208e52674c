"""How fast masks change where objects end. Introduced in notebooks/ex_comparison.ipynb."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import interpolate

from lib.metrics.objects import finite, ids_of


def boundary(truth: Tensor, masks: Tensor, width: float = 3.0) -> tuple[float, float]:
    """How fast masks change, a pixel: within `width` px of a true boundary, and elsewhere. NaN where there is none.

    The change is half the sum over slots of the length of the gradient: where one slot hands over to another within w
    pixels it is 1 / w, and hard masks give 1/2 (a difference over two pixels).

    Args:
        truth: ids, brought to the size of the masks by nearest neighbour; masks: `[K, H, W]`.
    """
    ids, masks = torch.from_numpy(ids_of("truth", truth).astype(np.float32)), finite("masks", masks)
    ids = interpolate(ids[None, None], masks.shape[-2:], mode="nearest")[0, 0].numpy()
    edge = np.zeros(ids.shape, bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    near = distance_transform_edt(~edge) <= width
    if near.all() or not edge.any():
        return float("nan"), float("nan")
    change = torch.stack(torch.gradient(masks.double(), dim=(1, 2))).square().sum(0).sqrt().sum(0).numpy() / 2
    return float(change[near].mean()), float(change[~near].mean())
