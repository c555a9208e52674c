"""How sure a number is: one paired estimator, one bootstrap, one effect size and one correction for the whole workbook.

Trainings of one seed share their batches and are judged on the same scenes, so configurations are compared run by run;
Welch's test takes them for independent. Introduced in notebooks/ex_slot1.ipynb.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import t as student

DRAWS = 1000  # of every bootstrap

#: One side of a comparison: by seed one value, or one a scene (NaN where a scene has nothing to measure); without the
#: mapping, or under None, that of a control without seeds.
Side = Mapping[int | None, ArrayLike] | ArrayLike


def difference(
    ours: Side,
    theirs: Side,
    *,
    shared: bool = True,
    draws: tuple[Side, Side] | None = None,
    units: float = np.inf,
) -> dict[str, float]:
    """The mean of `ours` - `theirs`, its 95 % interval, and whether chance explains it; paired by seed and by scene.

    Seeds that one side lacks, or in which nothing was measured, are left out. Two errors are added, as the root of the
    sum of their squares (MOVER, Zou and Donner 2008): Student's interval over the n seeds' differences, and the same
    over the scenes' differences (means over seeds). What varies with seed and scene at once is in both, so with scenes
    it is rather too wide, as resampling both is (Owen 2007), and covers 95 to 99 %.

    Args:
        ours, theirs: see `Side`; frames of a scene are no scenes, hand in their mean.
        shared: the scenes of both sides are the same. Else, training scenes against others say, their errors add.
        draws: for what is no mean over scenes: of each side `[draws]` by seed, the value under images drawn anew, the
            same draws on both sides and in every row.
        units: how many images, or scenes, were drawn from.

    Returns:
        `difference`, `low`, `high`; `p`, two-sided; `g`, Hedges' g: the difference in standard deviations of runs
        (root of the sides' mean variance), times 1 - 3 / (4 (n - 1) - 1) (Borenstein et al. 2009, chapter 4), NaN for
        fewer than three seeds; `seeds`, n, 0 where neither side has any. What was trained once has no interval (NaN).

    Raises:
        ValueError: no seed is on both sides, a value is infinite, or the scenes of shared ones differ in number.
    """
    both = [_by_seed(side) for side in (ours, theirs)]
    seeds = [s for s in both[0] if s in both[1]] if None not in both[0] else list(both[1])
    seeds = list(both[0]) if None in both[1] else seeds
    seeds = [s for s in seeds if not any(np.isnan(_at(side, s)).all() for side in both)]
    if not seeds:
        raise ValueError(f"no seed was measured on both sides: {' and '.join(str(list(side)) for side in both)}")
    a, b = (np.array([np.atleast_1d(_at(side, s)) for s in seeds]) for side in both)
    if np.isinf(a).any() or np.isinf(b).any():
        raise ValueError("a value to compare is infinite")
    if shared and a.shape[1] != b.shape[1] and 1 not in (a.shape[1], b.shape[1]):
        raise ValueError(f"sides have {a.shape[1]} and {b.shape[1]} scenes; hand in shared=False for different ones")
    means = np.nanmean(a - b, 1) if shared else np.nanmean(a, 1) - np.nanmean(b, 1)
    n, mean = len(seeds) if seeds != [None] else 0, float(means.mean())
    errors = [_error(means)] if n else []
    if draws is not None:
        drawn = np.subtract(*(np.mean([_at(_by_seed(side), s) for s in seeds], 0) for side in draws))
        errors.append((drawn.std(ddof=1) / (1 - 1 / units) ** 0.5, units - 1))  # drawn means vary too little by 1 - 1/n
    else:
        scenes = [x[:, np.isfinite(x).any(0)] for x in ([a - b] if shared else [a, b]) if x.shape[1] > 1]
        errors += [_error(np.nanmean(x, 0)) for x in scenes]

    def half(p: float) -> float:
        return float(np.linalg.norm([error * student.isf(p / 2, free) for error, free in errors or [_error(means)]]))

    found = {"difference": mean, "low": mean - half(0.05), "high": mean + half(0.05), "p": np.nan, "g": np.nan}
    if np.isfinite(found["low"]):  # p is where the interval touches zero
        zero = half(1e-16) <= abs(mean)
        found["p"] = float(mean == 0) if zero else brentq(lambda p: half(p) - abs(mean), 1e-16, 1, xtol=1e-15)
    spread = np.mean([np.nanmean(x, 1).var() for x, side in zip((a, b), both, strict=True) if None not in side] or [0])
    if n > 2 and spread:
        found["g"] = float(mean / (spread * n / (n - 1)) ** 0.5 * (1 - 3 / (4 * n - 5)))
    return found | {"seeds": n}


def compare(pairs: Mapping[Any, tuple[Side, Side]], **how: Any) -> pd.DataFrame:
    """`difference` of every pair, a row each, and `holm`: `p` corrected for the table's having so many rows."""
    found = {name: difference(*sides, **how) for name, sides in pairs.items()}
    table = pd.DataFrame(found, index=["difference", "low", "high", "p", "g", "seeds"]).T
    return table.assign(holm=holm(table["p"]))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p values corrected for their number, in their order (Holm 1979); NaN stays NaN and is not counted."""
    p = np.asarray(p, float)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    found = np.full(p.shape, np.nan)
    found[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return found


def label(key: str) -> str:
    """The field's name of a measure."""
    name = {"ari": "ARI", "refined_ari": "refined_ARI"}.get(key, key)
    for short, long in (("fg_ari", "FG-ARI"), ("mbo", "mBO"), ("miou", "mIoU"), ("_", " ")):
        name = name.replace(short, long)
    return f"{name.removeprefix('refined ')}, refined" if key.startswith("refined_") else name


def against(
    runs: list[dict], pairs: dict[str, tuple[tuple[str, str], tuple[str, str]]], controls: Sequence[str] = ()
) -> pd.DataFrame:
    """`compare` of pairs ((configuration, measure), (configuration, measure)); NaN where one of them has no runs.

    Args:
        controls: configurations that were run once because nothing in them varies with a seed.
    """

    def values(config: str, key: str) -> dict[int | None, float]:
        some = [r for r in runs if r["config"] == config and pd.notna(r["metrics"].get(key))]
        return {None if config in controls else r["seed"]: r["metrics"][key] for r in some}

    found = {name: [values(*side) for side in sides] for name, sides in pairs.items()}
    return compare({name: sides for name, sides in found.items() if all(sides)}).reindex(list(found))


def between(
    runs: list[dict],
    pairs: Sequence[tuple[str, str]],
    keys: Sequence[str] = ("fg_ari", "mbo"),
    controls: Sequence[str] = (),
) -> pd.DataFrame:
    """Pairs (configuration, the one it is compared with), a row a pair and measure; see `against`."""
    sides = {f"{a} - {b}, {label(k)}": ((a, k), (b, k)) for k in keys for a, b in pairs}
    return against(runs, sides, controls)


def as_runs(kind: str, table: pd.DataFrame) -> list[dict]:
    """Rows of a table of comparisons as runs for `results.write`: "<kind> <row>"; without those that are NaN."""
    rows = table.dropna(how="all").iterrows()
    return [{"config": f"{kind} {name}", "seed": 0, "metrics": dict(row)} for name, row in rows]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of comparisons as text: the difference with its interval, Hedges' g where there is one, and Holm's p."""
    named = table.rename(columns={"effect": "difference"}).astype(float)
    found = pd.DataFrame(index=table.index)
    rows = zip(named["difference"], named["low"], named["high"], strict=True)
    texts = [f"{d:+.3f} ({a:+.3f} to {b:+.3f})".replace(" (+nan to +nan)", "") for d, a, b in rows]
    found["difference (95 %)"] = ["-" if "nan" in text else text for text in texts]
    for key in named.columns.intersection(["g", "holm"]):
        found[key] = named[key].map(lambda value: "-" if np.isnan(value) else f"{value:.2g}")
    return found


def weights(units: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.int64]:
    """How often each scene or image is in each draw with replacement, `[draws, units]`; the same draws every time."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), draws)


def percentiles(values: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """The interval `[2, ...]` of a statistic's draws `[draws, ...]`; draws in which it is NaN are left out."""
    return np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], ArrayLike],
    units: int,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentile interval `[2, ...]` of a statistic, one number or several, of one row of `weights`.

    Units are what is independent: scenes, or images of different scenes; never frames of one, nor pixels.
    """
    return percentiles([statistic(w) for w in weights(units, draws, seed)], level)


def _by_seed(side: Side) -> dict[int | None, NDArray[np.float64]]:
    side = side if isinstance(side, Mapping) else {None: side}
    return {seed: np.asarray(values, float) for seed, values in side.items()}


def _at(side: dict[int | None, NDArray[np.float64]], seed: int | None) -> NDArray[np.float64]:
    return side[None] if None in side else side[seed]


def _error(values: NDArray[np.float64]) -> tuple[float, int]:
    """The standard error of a mean and its degrees of freedom; NaN of one value."""
    free = len(values) - 1
    return (float(values.std(ddof=1) / len(values) ** 0.5), free) if free > 0 else (np.nan, 1)
