"""Where slots follow a reflection instead of the object: which of its pixels are taken, by whom, and what they show.

A definition that can be counted, not a proof of cause. A metal object shows its surroundings; if a slot follows what is
shown, pixels of the object go to the slot of something else, and they have that thing's colour. Rubber of the same
scenes is the control. Introduced in notebooks/backbone_comparison.ipynb.
"""

import numpy as np
import pandas as pd
from scipy.special import entr
from torch import Tensor

from lib.metrics.objects import finite, ids_of

#: What a row of the study keeps of every object; the first three of `COLUMNS` after `id` say where its pixels went.
STORED = ("mirror", "lured", "entropy", "entropy_bright")
COLUMNS = ("image", "id", "own", "theft", "ground", *STORED)


def reflections(masks: Tensor, truth: Tensor, pictures: Tensor) -> pd.DataFrame:
    """What becomes of the pixels of each object in sight, rows as in `materials.judge`.

    A slot's *main region* is the object, or the background, that most of its pixels (argmax) belong to. An object's
    *bright* pixels are its brightest tenth by mean RGB, where highlights and mirrored lamps are.

    Args:
        masks: soft, `[n, K, H, W]`, sum to one over K; truth: ids `[n, H, W]`; pictures: `[n, 3, H, W]` in 0..1.

    Returns:
        Columns `image`, `id`, and shares of the object's pixels:
        `own`, in slots whose main region is the object; `theft`, another object; `ground`, the background; the three
        sum to one. `mirror`: not in its own slots, and in RGB nearer to the mean colour of the main region of the slot
        that took it than to the object's own mean colour: the slot follows what the pixel shows. 0 for an object
        without a slot of its own (`own` is 0): it is swallowed as a whole, whatever it shows. `lured`: of the foreign
        pixels, nearer in RGB to the mean colour of some other region of the image than to the object's own, those in
        `theft` or `ground`, minus the same of the others, -1 to 1: whether what could mislead does; NaN for an object
        without a slot of its own or with one kind of pixels alone. `entropy` and `entropy_bright`: mean entropy over
        slots at its pixels, and at its bright ones, in units of log K.
    """
    rows = []
    masks, pictures = finite("masks", masks), finite("pictures", pictures)
    for image, (soft, ids, picture) in enumerate(zip(masks, ids_of("truth", truth), pictures, strict=True)):
        soft, rgb = (x.flatten(1).double().cpu().numpy() for x in (soft, picture))  # [K, P], [3, P]
        ids, winners = ids.ravel().astype(int), soft.argmax(0)  # [P]
        overlap = np.zeros((len(soft), ids.max() + 1))
        np.add.at(overlap, (winners, ids), 1)
        owner = overlap.argmax(1)[winners]  # [P], the main region of the slot that won the pixel
        pixels = np.maximum(np.bincount(ids), 1)
        colours = np.stack([np.bincount(ids, channel) / pixels for channel in rgb])  # [3, regions]
        apart = np.linalg.norm(rgb[:, None] - colours[..., None], axis=0)  # [regions, P]
        apart[np.bincount(ids) == 0] = np.inf  # an id that this image does not show
        each = np.arange(len(ids))
        taken, alike, foreign = owner != ids, apart[owner, each] < apart[ids, each], apart.argmin(0) != ids
        entropy = entr(soft).sum(0) / np.log(max(len(soft), 2))
        light = rgb.mean(0)
        for i in np.unique(ids[ids > 0]).tolist():
            mine = ids == i
            bright = mine & (light >= np.quantile(light[mine], 0.9))
            holds = not taken[mine].all()
            found = [~taken, taken & (owner > 0), taken & (owner == 0), taken & alike & holds]
            shares = [x[mine].mean() for x in found]
            both = holds and 0 < foreign[mine].mean() < 1
            shares.append(taken[mine & foreign].mean() - taken[mine & ~foreign].mean() if both else np.nan)
            rows.append([image, i, *shares, entropy[mine].mean(), entropy[bright].mean()])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def clearest(objects: pd.DataFrame) -> pd.DataFrame:
    """The six objects with most pixels mirrored away (share x area), the largest first, one a scene.

    Of those that are at most half hidden and away from the frame's edge, so that nothing else explains it.

    Args:
        objects: a table of `materials.objects_of` joined with `reflections`.
    """
    some = objects[(objects.hidden <= 0.5) & ~objects.border]
    order = (some.mirror * some.area).sort_values(ascending=False, kind="stable").index
    return some.loc[order].drop_duplicates("scene").head(6)
