"""The one paired estimator: hand-made cases, the published formulas, coverage where seeds and scenes both vary."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from lib.metrics.intervals import between, bootstrap, compare, difference, holm, percentiles, readable, weights

BASE = {0: 0.50, 1: 0.60, 2: 0.55}


def test_pairs_by_the_value_of_the_seed():
    """Runs alike but for a constant differ by it, however seeds are ordered and whichever are missing."""
    ours = {s: v + 0.1 for s, v in BASE.items()}
    for other in (BASE, dict(reversed(BASE.items())), {1: 0.60, 2: 0.55, 3: 0.10}):
        found = difference(ours, other)
        assert (found["difference"], found["low"], found["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert found["seeds"] == 2 and difference({0: 0.1, 1: 0.2, 2: 0.3}, {1: 0.2, 2: 0.3, 3: 0.4})["difference"] == 0
    with pytest.raises(ValueError, match=r"no seed .* \[0\] and \[1\]"):
        difference({0: 1.0}, {1: 1.0})
    with pytest.raises(ValueError, match="no seed was measured"):
        difference({0: np.nan}, 0.0)


def test_with_seeds_alone_it_is_the_paired_t_test():
    ours = {2: 0.70, 0: 0.58, 1: 0.71}
    found, theirs = difference(ours, BASE), ttest_rel([0.58, 0.71, 0.70], [0.50, 0.60, 0.55])
    interval = theirs.confidence_interval()
    assert (found["low"], found["high"], found["p"]) == pytest.approx((interval.low, interval.high, theirs.pvalue))
    spread = ((np.var([0.58, 0.71, 0.70], ddof=1) + np.var([0.50, 0.60, 0.55], ddof=1)) / 2) ** 0.5
    assert found["g"] == pytest.approx(found["difference"] / spread * (1 - 3 / 7))


def test_what_cannot_be_known_is_nan():
    one, two = difference({0: 0.2}, {0: 0.1}), difference({0: 0.2, 1: 0.4}, {0: 0.1, 1: 0.1})
    assert one["difference"] == pytest.approx(0.1) and all(np.isnan(one[k]) for k in ("low", "high", "p", "g"))
    assert np.isfinite(two["low"]) and np.isnan(two["g"]), "the correction of g has no value with one degree of freedom"
    assert difference(BASE, {0: 0.5, 1: np.nan, 2: 0.5})["seeds"] == 2, "a seed with nothing to measure is no seed"
    with pytest.raises(ValueError, match="infinite"):
        difference(BASE, {0: np.inf, 1: 0.5})
    same = difference(BASE, BASE)
    assert (same["low"], same["high"], same["p"]) == (0, 0, 1)


def test_a_control_without_seeds_is_one_number():
    found = difference(BASE, 0.5)
    assert found["difference"] == pytest.approx(0.05)
    assert found["g"] == pytest.approx(0.05 / np.std([0.5, 0.6, 0.55], ddof=1) * (1 - 3 / 7))
    assert difference(0.5, BASE)["difference"] == pytest.approx(-0.05) and np.isnan(difference(0.5, 0.4)["low"])
    scenes = np.array([0.1, 0.3, 0.2, np.nan])  # of a control that was run once, and could not be run otherwise
    found, interval = difference(scenes, 0.0), ttest_1samp(scenes[:3], 0).confidence_interval()
    assert (found["low"], found["high"], found["seeds"]) == pytest.approx((interval.low, interval.high, 0))
    assert np.isnan(difference({0: scenes}, 0.0)["low"]), "but one training says nothing of the next"


@pytest.mark.parametrize("seed_sd, scene_sd, both_sd", [(1, 0, 0), (0, 1, 0), (0.3, 1, 1), (0.1, 1, 0.2)])
@pytest.mark.parametrize("kind", ["scenes", "draws"])
def test_covers_where_seeds_and_scenes_vary(seed_sd, scene_sd, both_sd, kind):
    """Three seeds of thirty scenes; either error alone would miss the truth far too often."""
    rng, inside, w = np.random.default_rng(0), 0, weights(30, 200) / 30
    for _ in range(300):
        d = seed_sd * rng.normal(size=(3, 1)) + scene_sd * rng.normal(size=(1, 30)) + both_sd * rng.normal(size=(3, 30))
        rows = dict(enumerate(d))
        if kind == "scenes":
            found = difference(rows, 0.0)
        else:
            drawn = {s: w @ v for s, v in rows.items()}
            found = difference(dict(enumerate(d.mean(1))), 0.0, draws=(drawn, dict.fromkeys(rows, 0.0)), units=30)
        inside += found["low"] < 0 < found["high"]
    assert 0.92 < inside / 300 <= 1.0


def test_scenes_that_are_not_shared_add_their_errors():
    rng = np.random.default_rng(0)
    a, b = ({s: x for s in range(3)} for x in (rng.normal(size=40), rng.normal(size=10)))
    found = difference(a, b, shared=False)
    half = (a[0].var(ddof=1) / 40 + b[0].var(ddof=1) / 10) ** 0.5  # no error of training: Welch's interval over scenes
    assert 2.1 * half < found["high"] - found["difference"] < 2.3 * half
    with pytest.raises(ValueError, match="40 and 10 scenes"):
        difference(a, b)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, np.nan]) == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    table = compare({"a": ({0: 0.5, 1: 0.61, 2: 0.69}, 0.0), "b": ({0: 0.5, 1: -0.6, 2: 0.3}, 0.0)})
    assert table.loc["a", "holm"] == pytest.approx(2 * table.loc["a", "p"]) and table.loc["b", "holm"] > 0.5


def test_the_bootstrap_covers_a_mean_and_draws_the_same_every_time():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        values = rng.normal(size=40)
        low, high = percentiles(weights(40, 300) @ values / 40)
        inside += low < 0 < high
    assert 88 <= inside <= 100
    assert bootstrap(lambda w: w @ values / 40, 40, 300) == pytest.approx([low, high])
    assert np.isfinite(bootstrap(lambda w: [np.nan if w[0] else 1.0, w.sum()], 5)).all(), "NaN draws are left out"


def test_runs_are_compared_with_runs_and_with_controls():
    rows = [("a", s, 0.5 + s / 10) for s in (1, 2, 3)] + [("b", s, 0.4 + s / 10) for s in (1, 2, 3)]
    rows += [("blocks", 0, 0.2), ("b", 4, None), ("b", 5, np.nan)]
    runs = [{"config": c, "seed": s, "metrics": {"mbo": v}} for c, s, v in rows]
    found = between(runs, [("a", "b"), ("a", "blocks"), ("a", "nobody")], ["mbo"], controls=["blocks"])
    assert found.index.tolist() == ["a - b, mBO", "a - blocks, mBO", "a - nobody, mBO"]
    assert found.seeds.tolist()[:2] == [3, 3] and found.difference.tolist()[:2] == pytest.approx([0.1, 0.5])
    assert found.loc["a - nobody, mBO"].isna().all() and between(runs, [("x", "y")]).low.isna().all()
    with pytest.raises(ValueError, match="no seed"):
        between(runs, [("a", "blocks")], ["mbo"])


def test_a_table_is_readable_and_has_no_nan():
    low, high, corrected = [-0.01, np.nan, np.nan], [0.21, np.nan, np.nan], [0.512, np.nan, np.nan]
    table = pd.DataFrame({"effect": [0.1, 0.2, np.nan], "low": low, "high": high, "p": 0.5, "holm": corrected})
    found = readable(table)  # trained three times, once, never
    assert found.to_numpy().tolist() == [["+0.100 (-0.010 to +0.210)", "0.51"], ["+0.200", "-"], ["-", "-"]]
