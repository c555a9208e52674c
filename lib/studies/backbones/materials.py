"""Every object of every image by itself: what it is, how well a slot holds it, and whether metal is held worse.

Tables are pandas frames, a row an object of an image. Objects of one scene are not independent of each other, so every
interval draws scenes. Introduced in notebooks/backbone_comparison.ipynb.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lib.data.movi import COLORS, MATERIALS, SHAPES, SIZES, Scene
from lib.metrics.intervals import difference, weights
from lib.metrics.objects import finite, ids_of, iou_matrix
from lib.studies.backbones.silhouettes import GEOMETRY, full_pixels

#: What to load of a scene: `MoviDataset(root, split, fields=FIELDS, frames=...)`.
FIELDS = ("segmentations", "material", "shape", "size", "color", *GEOMETRY)
#: What `adjusted` holds constant beside the scene.
TERMS = ("metal", "large", "log2 area", "hidden", "log2 distance", "border")
#: Of the same objects, one a seed; that of a control without seeds is under None.
Tables = Mapping[int | None, pd.DataFrame]


def objects_of(scenes: Iterable[Scene], frames: slice) -> pd.DataFrame:
    """Every object in sight, image by image and by rising id, as `judge` has them.

    Args:
        scenes: loaded with `FIELDS`, in the order of the masks to judge.
        frames: those that the scenes were loaded with.

    Returns:
        Columns `image` (scene x T + frame), `scene`, `id`; `material`, `shape`, `size` and `color` in words, by id;
        `mistaken`, the material that the original study read, see `by_rank`; `mixed`, whether the scene holds both
        materials; `area`, visible pixels; `hidden`, the share of its outline within the frame that other objects cover
        (`silhouettes.full_pixels`); `distance`, pixels between its visible mask and the nearest other one, 1 where they
        touch, NaN where it is alone; `border`, whether it meets the frame's edge.
    """
    rows = []
    for s, scene in enumerate(scenes):
        total = len(scene.extra["instances/positions"]) // (3 * len(scene.shape))
        numbers = np.arange(total)[frames]
        full = full_pixels(scene, numbers)
        for t, ids in enumerate(scene.masks):
            seen = np.unique(ids[ids > 0])
            rim = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
            for i, wrong in zip(seen.tolist(), by_rank(scene.material, seen), strict=True):
                others = (ids > 0) & (ids != i)
                area = int((ids == i).sum())
                rows.append(
                    {
                        "image": s * len(scene.masks) + t,
                        "scene": s,
                        "id": i,
                        "material": MATERIALS[scene.material[i - 1]],
                        "mistaken": MATERIALS[wrong],
                        "shape": SHAPES[scene.shape[i - 1]],
                        "size": SIZES[scene.size[i - 1]],
                        "color": COLORS[scene.color[i - 1]],
                        "mixed": len(set(scene.material.tolist())) > 1,
                        "area": area,
                        "hidden": max(0.0, 1 - area / max(int(full[i - 1, t]), 1)),
                        "distance": distance_transform_edt(ids != i)[others].min() if others.any() else np.nan,
                        "border": bool((rim == i).any()),
                    }
                )
    return pd.DataFrame(rows)


def by_rank(material: NDArray[np.int64], seen: NDArray[np.int64]) -> NDArray[np.int64]:
    """The original's mistake: the r-th id in sight gets the r-th material of the scene, whoever it belongs to.

    Right while the ids in sight are 1, 2, 3, … without a gap; behind a hidden object every material is another's.

    Args:
        material: of all objects of the scene, `[n]`; seen: rising ids in sight.
    """
    return np.asarray(material)[: len(seen)]


def judge(masks: Tensor, truth: Tensor) -> pd.DataFrame:
    """How well slots hold each object in sight; masks are made hard by argmax.

    The mean of `best` over the objects of an image is `metrics.objects`' mBO.

    Args:
        masks: `[n, K, H, W]`; truth: ids `[n, H, W]`.

    Returns:
        Columns `image`, `id`; `best`, the largest IoU with any slot; `recall`, the share of the object in that slot;
        `matched`, the slot under the best one-to-one matching, -1 where slots ran out.
    """
    rows = []
    winners = finite("masks", masks).argmax(1).cpu().numpy()
    for image, (hard, ids) in enumerate(zip(winners, ids_of("truth", truth), strict=True)):
        present, iou = np.unique(hard), iou_matrix(ids, hard)
        slots = np.full(len(iou), -1)
        objects, columns = linear_sum_assignment(-iou)
        slots[objects] = present[columns]
        for row, i in enumerate(np.unique(ids[ids > 0]).tolist()):
            recall = (hard[ids == i] == present[iou[row].argmax()]).mean()
            rows.append([image, i, iou[row].max(), recall, int(slots[row])])
    return pd.DataFrame(rows, columns=["image", "id", "best", "recall", "matched"])


def gaps(tables: Tables, value: str) -> dict[int | None, NDArray[np.float64]]:
    """By seed: mean of metal minus mean of rubber in each scene, over all of its images; NaN where one is missing."""
    found = {}
    for seed, table in tables.items():
        means = table.groupby(["scene", "material"])[value].mean().unstack().reindex(columns=MATERIALS)
        found[seed] = (means["metal"] - means["rubber"]).to_numpy()
    return found


def paired(tables: Tables, value: str) -> dict[str, float]:
    """Metal minus rubber within mixed scenes, see `intervals.difference`: training and scenes are in its interval.

    Args:
        tables: of the same objects, one a seed.

    Returns:
        `effect`, `low`, `high` (95 %), `p`; `sd` of the effects of single seeds (NaN of one), `seeds` (0: none), and
        `scenes`, how many there are; with fewer than two all but the last is NaN.
    """
    apart = gaps(tables, value)
    scenes = int(np.isfinite(list(apart.values())).any(0).sum())
    if scenes < 2:
        return dict.fromkeys(("effect", "low", "high", "p", "sd", "seeds"), np.nan) | {"scenes": scenes}
    found = difference(apart, 0.0)
    kept = {"effect": found["difference"]} | {k: found[k] for k in ("low", "high", "p", "seeds")}
    return kept | {"sd": float(pd.DataFrame(apart).mean().std()), "scenes": scenes}


def adjusted(tables: Tables, value: str) -> pd.DataFrame:
    """Is it the material, or that metal happens to be smaller, hidden or close to others? Least squares on `TERMS`.

    Within mixed scenes: every column has its scene's mean taken away, so scenes are compared with themselves. `metal`
    alone, then beside all other terms, whose effects are those of one more unit (a doubling of area or distance).

    Returns:
        Columns of `intervals.difference`, `effect` for "difference"; rows `metal, alone` and `TERMS`.
    """
    fits = {seed: _fits(table[table.mixed], value) for seed, table in tables.items()}
    rows, scenes = {}, min(table[table.mixed].scene.nunique() for table in tables.values())
    for i, term in enumerate(["metal, alone", *TERMS]):
        drawn = {seed: fit[1:, i] for seed, fit in fits.items()}
        rows[term] = difference({s: f[0, i] for s, f in fits.items()}, 0.0, draws=(drawn, 0.0), units=scenes)
    return pd.DataFrame(rows).T.rename(columns={"difference": "effect"})


def _fits(objects: pd.DataFrame, value: str) -> NDArray[np.float64]:
    """Coefficients `[1 + DRAWS, 1 + TERMS]` of one seed's objects: of all scenes, then of each draw of them."""
    some = objects.dropna(subset=[value, "distance"])
    terms = {"metal": some.material == "metal", "large": some["size"] == "large", "log2 area": np.log2(some.area)}
    terms |= {"hidden": some.hidden, "log2 distance": np.log2(some.distance), "border": some.border}
    within = pd.DataFrame(terms, dtype=float).assign(_y=some[value].astype(float))
    within = (within - within.groupby(some.scene).transform("mean")).to_numpy()
    scenes, where = np.unique(some.scene, return_inverse=True)
    fits = []
    for weight in np.vstack([np.ones(len(scenes)), weights(len(scenes))]):
        x = within * np.sqrt(weight[where])[:, None]
        alone = np.linalg.lstsq(x[:, :1], x[:, -1])[0]
        fits.append(np.concatenate([alone, np.linalg.lstsq(x[:, :-1], x[:, -1])[0]]))
    return np.array(fits)
