"""Metal against rubber on twins: the same scenes rendered with the two materials swapped.

Every object is seen in both materials, from the same place, among the same neighbours and along the same path, so what
differs between the two pictures of it is the material, and that of its neighbours. The scenes are too many to ship;
`python data/make/movi.py twins` renders them into the cache. Introduced in notebooks/backbone_comparison.ipynb.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib import ROOT
from lib.data.movi import MATERIALS, MoviDataset
from lib.features import Split
from lib.files import DataError
from lib.metrics.intervals import Side, difference, holm
from lib.studies.backbones import experiment
from lib.studies.backbones.materials import judge
from lib.studies.backbones.tables import pack, unpack
from lib.studies.objects import experiment as objects_experiment

FOLDER = ROOT / "cache" / "movi_twins"
ABOUT = "twins: 100 mixed scenes from seed 5000, 3 frames"  # what a row depends on beside its training
#: Two materials are taken for equal where the difference in IoU is within this, stated before anything was measured.
MARGIN = 0.05


def load() -> MoviDataset:
    """The twins: record 2i is a scene as drawn, record 2i + 1 the same with its materials swapped.

    Raises:
        DataError: they are not in the cache, or not those of `ABOUT`.
    """
    remedy = "`python data/make/movi.py twins` renders them (data/make/requirements.txt says with what)"
    try:
        found = MoviDataset(FOLDER, "twins", fields=("video", "segmentations", "material"))
    except DataError as error:
        raise DataError(f"{FOLDER}: no twins; {remedy}") from error
    if len(found) != 200:
        raise DataError(f"{FOLDER}: {len(found)} records where 200 are due; {remedy}")
    return found


def trial(study: experiment.BackboneStudy, backbone: str, seed: int, steps: int) -> dict[str, Any]:
    """One training of `BackboneStudy.run`, measured on twins.

    Returns:
        By object that is in sight, scene by scene, as text: `metal` and `rubber`, the IoU with its best slot in either
        material, refined masks, mean over the frames that show it (`tables.pack`); `drawn`, the first letter of its
        material in the scene as drawn. `scenes`: how many objects each has. And the `fingerprint` of the records.
    """
    twins, used = load(), experiment.network(backbone, study.trials.device)
    model = study.run(backbone, seed, steps).model
    validation = experiment.scenes(study.trials, backbone, study.trials.splits[1])
    threshold = objects_experiment.choose_threshold(objects_experiment.tried(model, validation))
    data = Split(twins, used, experiment.side(used), experiment.GRID)
    masks = objects_experiment.stages(model, data, threshold)["refined"]
    judged = judge(masks, data.ids())
    best = judged.groupby([judged.image // data.shape[1], "id"]).best.mean()  # by record and object
    drawn, metal, rubber, counts = "", [], [], []
    for i in range(0, len(twins), 2):
        first, second = best.loc[i], best.loc[i + 1]
        is_metal = twins[i].material[first.index.to_numpy() - 1] == MATERIALS.index("metal")
        metal.append(first.where(is_metal, second))
        rubber.append(second.where(is_metal, first))
        drawn += "".join("m" if m else "r" for m in is_metal)
        counts.append(str(len(first)))
    row = {"metal": pack(pd.concat(metal)), "rubber": pack(pd.concat(rubber))}
    return row | {"drawn": drawn, "scenes": " ".join(counts), "fingerprint": twins.fingerprint}


def gaps(metrics: dict[str, Any], twins: bool = True) -> np.ndarray:
    """Metal minus rubber, mean over the objects of a scene, `[scenes]`, of a row of `trial`.

    Args:
        twins: each object against itself in the other material; else metal objects against rubber ones of the scene
            as drawn, as on any other scenes.
    """
    table = pd.DataFrame({name: unpack(metrics[name]) for name in MATERIALS})
    drawn = np.array(list(metrics["drawn"])) == "m"
    scene = np.repeat(np.arange(len(metrics["scenes"].split())), list(map(int, metrics["scenes"].split())))
    if twins:
        return (table.metal - table.rubber).groupby(scene).mean().to_numpy()
    seen = table.metal.where(drawn).groupby(scene).mean() - table.rubber.where(~drawn).groupby(scene).mean()
    return seen.to_numpy()


def equivalence(ours: Side, margin: float = MARGIN) -> float:
    """p of two one-sided tests (Schuirmann 1987): under 0.05, the difference is within the margin, either way.

    Args:
        ours: differences, by seed and scene, as for `intervals.difference`.
    """
    sides = []
    for sign in (-1, 1):
        found = difference(ours, sign * margin)
        inside = found["difference"] * sign < 0
        sides.append(found["p"] / 2 if inside else 1 - found["p"] / 2)
    return max(sides)


def compared(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Metal minus rubber of each backbone, over seeds and scenes: on twins, and between objects of the scenes as drawn.

    Returns:
        Rows "<backbone>, twins" and "<backbone>, mixed scenes"; columns `effect`, `low`, `high`, `p`, `seeds`, `holm`
        (p corrected for the rows) and `equivalence`, see there.
    """
    sides: dict[str, dict[int, np.ndarray]] = {}
    for row in rows:
        for name, twins in (("twins", True), ("mixed scenes", False)):
            params = row["params"]
            sides.setdefault(f"{params['backbone']}, {name}", {})[params["seed"]] = gaps(row["metrics"], twins)
    found = {name: difference(side, 0.0) | {"equivalence": equivalence(side)} for name, side in sides.items()}
    columns = ["difference", "low", "high", "p", "seeds", "equivalence"]
    table = pd.DataFrame(found, index=columns).T.rename(columns={"difference": "effect"})
    return table.assign(holm=holm(table["p"]))
