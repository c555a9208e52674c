"""Anomaly measures: agreement with scikit-learn, bounds that hold, rules that differ where they should."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from lib.metrics import anomaly
from lib.metrics.anomaly import Curve, Pool, exact_curve
from lib.metrics.intervals import percentiles

# Few distinct values, so that ties are common; and both signs.
SCORES = hnp.arrays(np.float32, 40, elements=st.integers(-6, 6).map(lambda i: i / 4))
SPREAD = hnp.arrays(np.float32, 40, elements=st.floats(-50, 50, width=32))
TRUTH = hnp.arrays(bool, 40)


def pooled(scores, truth, bits=22):
    pool = Pool(bits)
    pool.add(scores, truth)
    return pool.curve()


def evaluate(images, anomaly_id=13, ignored=(255,), rule="first"):
    """All images through one `Evaluation`, as the notebook does."""
    found = anomaly.Evaluation({"all": (0, 1)})
    for scores, labels in images:
        found.add(scores, anomaly.pixel_kinds(labels, anomaly_id, ignored))
    return found.report("all", rule)


def pixels(n, share=0.01, seed=0, gap=2.0):
    """Scores like an energy's: others around 10, anomalies `gap` above."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n, dtype=np.float32) < share
    return (rng.standard_normal(n, dtype=np.float32) - 10 + gap * truth).astype(np.float32), truth


@given(SCORES, TRUTH)
@settings(max_examples=60)
def test_exact_measures_agree_with_scikit_learn(scores, truth):
    found = anomaly.measure(exact_curve(scores, truth))
    if truth.all() or not truth.any():
        assert all(math.isnan(value) for value in found.values())
        return
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(truth, scores)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert found["aupr"] == pytest.approx(average_precision_score(truth, scores))
    assert found["fpr95"] == pytest.approx(false[np.argmax(true >= 0.95)])
    curve = exact_curve(scores, truth)
    assert anomaly.aupr(curve, "trapezoid") == pytest.approx(-np.trapezoid(precision, recall))
    last = np.argmax(true == 1)  # as the published code: from the last anomaly down, the first of the nearest
    nearest = false[last:0:-1][np.argmin(np.abs(true[last:0:-1] - 0.95))]
    assert anomaly.fpr(curve, rule="nearest") == nearest


def test_the_nearest_recall_takes_most_false_positives():
    """19 of 20 anomalies on top, 80 others, then the last anomaly: recall is 0.95 from the first other to the last."""
    truth = np.repeat([True, False, True], [19, 80, 1])
    curve = exact_curve(-np.arange(100.0), truth)
    assert anomaly.fpr(curve) == 0 and anomaly.fpr(curve, rule="nearest") == 1
    scores, truth = pixels(9000, 0.011, seed=1)
    for curve in (exact_curve(scores, truth), pooled(scores, truth)):
        assert anomaly.fpr(curve, rule="nearest") > anomaly.fpr(curve) + 0.001, "95 of 100 is met and then kept"


@pytest.mark.parametrize(("scores", "truth", "auroc", "aupr"), [
    (np.zeros(16), np.arange(16) == 3, 0.5, 1 / 16),
    ([2, 2, 2, 1, 1, 0], np.array([1, 0, 0, 1, 0, 0], bool), 0.5625, 1 / 2 / 3 + 1 / 2 * 2 / 5),
])  # fmt: skip
def test_ties_are_one_step_counted_or_pooled(scores, truth, auroc, aupr):
    for curve in (exact_curve(scores, truth), pooled(scores, truth), pooled(scores, truth, 3)):
        found = anomaly.measure(curve)
        if len(curve.thresholds) == len(np.unique(scores)):  # three bits are enough for one score, not for three
            assert (found["auroc"], found["aupr"]) == pytest.approx((auroc, aupr))
            assert all(a == b == pytest.approx(found[k]) for k, (a, b) in anomaly.bounds(curve).items())
    report = evaluate([(np.reshape(scores, (2, -1)), np.where(truth, 13, 1).reshape(2, -1))], 13)
    assert report.values["aupr_pooled"] == pytest.approx(aupr)
    assert report.draws(5)["aupr_pooled"] == pytest.approx(np.full(5, aupr))


@given(st.one_of(SCORES, SPREAD), TRUTH, st.sampled_from([8, 10, 12, 16]))
@settings(max_examples=120)
def test_bounds_hold_with_any_bins_and_ties(scores, truth, bits):
    if truth.all() or not truth.any():
        return
    curve = pooled(scores, truth, bits)
    exact, found = anomaly.measure(exact_curve(scores, truth)), anomaly.measure(curve)
    for key, (low, high) in anomaly.bounds(curve).items():
        assert low - 1e-9 <= exact[key] <= high + 1e-9, key
        assert low - 1e-9 <= found[key] <= high + 1e-9, key


@given(SPREAD, TRUTH, st.integers(1, 39))
@settings(max_examples=50)
def test_a_pool_does_not_see_batches_or_order(scores, truth, cut):
    whole, parts = pooled(scores, truth, 16), Pool(16)
    for part in (slice(cut, None), slice(cut)):
        parts.add(scores[part], truth[part])
    for a, b in zip(whole[:3], parts.curve()[:3], strict=True):
        np.testing.assert_array_equal(a, b)


@given(SPREAD)
@settings(max_examples=100)
def test_thresholds_are_edges_of_the_bins(scores):
    ends = np.finfo(np.float32)
    scores = np.append(scores, [ends.max, ends.min, 0.0, -0.0]).astype(np.float32)
    curve = pooled(scores, np.zeros(len(scores), bool), 12)
    assert (np.diff(curve.thresholds) < 0).all()
    for threshold, flagged in zip(curve.thresholds, np.cumsum(curve.others), strict=True):
        assert (scores >= threshold).sum() == flagged


@pytest.mark.parametrize("gap", [0.5, 2.0, 5.0])
def test_streaming_is_within_a_thousandth_on_two_million_pixels(gap):
    scores, truth = pixels(2_000_000, gap=gap)
    pool = Pool()
    for part, which in zip(np.array_split(scores, 7), np.array_split(truth, 7), strict=True):
        pool.add(part, which)
    exact = anomaly.measure(exact_curve(scores, truth))
    assert exact["aupr"] == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    found, bounds = anomaly.measure(pool.curve()), anomaly.bounds(pool.curve())
    for key in anomaly.KEYS:
        assert abs(found[key] - exact[key]) < 0.001
        assert bounds[key][0] <= exact[key] <= bounds[key][1] and bounds[key][1] - bounds[key][0] < 0.001


def test_wide_bins_are_read_as_mixed():
    """The bounds allow much, the estimate must not use it: here a bin is a thirty-second of its score wide."""
    scores, truth = pixels(300_000)
    curve, exact = pooled(scores, truth, 14), anomaly.measure(exact_curve(scores, truth))
    for key, (low, high) in anomaly.bounds(curve).items():
        if key != "fpr95":  # the end of a bin, by its definition
            assert abs(anomaly.measure(curve)[key] - exact[key]) < 0.1 * (high - low), key


def test_scores_are_never_squashed():
    """Logits of which a sigmoid in float32 would make ties, and one with ties at its top."""
    scores, truth = pixels(20_000, 0.05)
    raised = scores + 60
    squashed = torch.from_numpy(raised).sigmoid()
    assert len(torch.unique(squashed)) == 1
    for curve in (exact_curve(raised, truth), pooled(raised, truth)):
        assert anomaly.auroc(curve) == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)


@given(SPREAD, TRUTH)
@settings(max_examples=50)
def test_a_threshold_is_the_same_rule_everywhere(scores, truth):
    if truth.all() or not truth.any():
        return
    for curve in (exact_curve(scores, truth), pooled(scores, truth, 16)):
        for threshold in (
            anomaly.threshold_at_recall(curve),
            anomaly.threshold_at_best_f1(curve),
            anomaly.threshold_at_fpr(curve, 0.3),
        ):
            flagged = scores >= threshold
            counted = curve.thresholds >= threshold
            assert curve.anomalies[counted].sum() == flagged[truth].sum()
            assert curve.others[counted].sum() == flagged[~truth].sum()
        assert (scores >= anomaly.threshold_at_recall(curve))[truth].mean() >= 0.95
        assert (scores >= anomaly.threshold_at_fpr(curve, 0.3))[~truth].mean() <= 0.3


def test_a_recall_of_exactly_95_in_100_is_reached():
    scores, truth = np.arange(21, 0, -1, dtype=np.float32), np.arange(21) != 19  # 19 anomalies, another, the twentieth
    for curve in (exact_curve(scores, truth), pooled(scores, truth, 16)):
        assert anomaly.fpr(curve) == 0 and anomaly.threshold_at_recall(curve) == 3
        assert anomaly.fpr(curve, recall=0.96) == 1


def test_the_best_f1_is_the_best():
    scores, truth = pixels(3000, 0.1)
    curve = exact_curve(scores, truth)
    best = f1_score(truth, scores >= anomaly.threshold_at_best_f1(curve))
    assert best == pytest.approx(max(f1_score(truth, scores >= t) for t in curve.thresholds[::5]), abs=0.01)


def test_validation_without_anomalies_gives_an_alarm_budget():
    scores, _ = pixels(100_000, 0)
    curve = pooled(scores, np.zeros(len(scores), bool))
    threshold = anomaly.threshold_at_fpr(curve, 0.05)
    assert 0.049 < (scores >= threshold).mean() <= 0.05
    assert anomaly.threshold_at_fpr(exact_curve([1.0, 1.0], [False, False]), 0.4) == math.inf


def image(seed, offset=0.0, anomaly_there=True):
    scores, truth = pixels(400, 0.1, seed)
    labels = np.where(truth & anomaly_there, 13, np.random.default_rng(seed).integers(0, 13, 400))
    return (scores + offset).reshape(20, 20), labels.reshape(20, 20)


def test_protocols_differ_in_what_they_should():
    images = [image(0), image(1, 5.0), image(2, anomaly_there=False)]
    report = evaluate(images, 13, ignored=(255,))
    each = [average_precision_score(y.ravel() == 13, s.ravel()) for s, y in images[:2]]
    assert report.values["aupr_per_image"] == pytest.approx(np.mean(each)), "images without anomaly are skipped"
    s, y = (np.stack(part).ravel() for part in zip(*images, strict=True))
    assert report.values["aupr_pooled"] == pytest.approx(average_precision_score(y == 13, s), abs=1e-3)
    assert report.values["aupr_pooled"] < report.values["aupr_per_image"] - 0.1, "offsets between images only hurt one"
    ignoring = evaluate(images, 13, ignored=(255, 3))
    kept = y != 3
    assert ignoring.values["auroc_pooled"] == pytest.approx(roc_auc_score(y[kept] == 13, s[kept]), abs=1e-3)
    assert ignoring.curve.others.sum() == (kept & (y != 13)).sum()
    nearest = evaluate(images, 13, rule="nearest").values
    assert nearest["fpr95_per_image"] != report.values["fpr95_per_image"]
    assert nearest["fpr95_pooled"] == report.values["fpr95_pooled"]


def test_void_pixels_may_hold_nan_and_others_may_not():
    scores, labels = image(0)
    scores[0, 0], labels[0, 0] = np.nan, 255
    assert np.isfinite(list(evaluate([(scores, labels)], 13).values.values())).all()
    with pytest.raises(ValueError, match="NaN"):
        evaluate([(scores, labels)], 13, ignored=())
    with pytest.raises(ValueError, match="differ in shape"):
        Pool(8).add(np.zeros(3), np.zeros(4, bool))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_scores_that_are_not_finite_are_refused(wrong):
    scores, truth = np.array([0.0, wrong, 1.0]), np.array([True, False, False])
    for measure in (exact_curve, Pool(8).add):
        with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
            measure(torch.from_numpy(scores), truth)


def test_truth_is_bool_and_labels_are_of_an_integer_type():
    with pytest.raises(ValueError, match="truth is torch.float64, not bool"):
        exact_curve([0.0, 1.0], [0.0, np.nan])
    with pytest.raises(ValueError, match="truth is torch.int64, not bool"):
        exact_curve([0.0, 1.0], [3, 13])
    scores, labels = image(0)
    for spoiled in (labels * 1.0, np.where(labels == 13, np.nan, labels), np.where(labels == 13, -1, labels)):
        with pytest.raises(ValueError, match="labels: "):
            evaluate([(scores, spoiled)], 13)
    expected = evaluate([(scores, labels)], 13).values
    for kind in (np.int8, np.uint8, np.uint16, np.int32):
        same = evaluate([(scores[:, ::-1], labels[:, ::-1].astype(kind))], 13)
        assert same.values == pytest.approx(expected), "mirrored arrays and every integer type are the same pixels"
    single = evaluate([(torch.from_numpy(scores).bfloat16().requires_grad_(), labels == 13)], 1)
    assert single.values["auroc_pooled"] == pytest.approx(expected["auroc_pooled"], abs=0.01)


def test_no_threshold_without_anomalies():
    plain, full = exact_curve([1.0, 2.0], [False, False]), exact_curve([1.0, 2.0], [True, True])
    for choose in (anomaly.threshold_at_recall, anomaly.threshold_at_best_f1):
        with pytest.raises(ValueError, match="no pixel is an anomaly"):
            choose(plain)
    for curve, rate in ((full, 0.1), (plain, np.nan), (plain, 1.5)):
        with pytest.raises(ValueError, match="no threshold for a rate"):
            anomaly.threshold_at_fpr(curve, rate)
    with pytest.raises(ValueError, match=r"recall in 0\.\.1"):
        anomaly.threshold_at_recall(full, np.nan)
    assert all(math.isnan(v) for curve in (plain, full) for v in anomaly.measure(curve).values())


def test_draws_lie_around_the_value_and_closer_with_more_images():
    few, many = (evaluate([image(i, 0.3 * (i % 3)) for i in range(n)], 13) for n in (8, 64))
    widths = []
    for report in (few, many):
        low, high = np.array([percentiles(values) for values in report.draws(200).values()]).T
        assert (low < list(report.values.values())).all() and (list(report.values.values()) < high).all()
        widths.append(high - low)
    assert (widths[1] < widths[0]).all()
    one = evaluate([image(0)], 13)
    for name, values in one.draws(5).items():
        assert np.ptp(values) == 0 and values[0] == pytest.approx(one.values[name], abs=0.05), "nothing to draw"


def test_kinds_are_bits_and_void_is_none():
    labels = np.array([[0, 13, 3], [13, 255, 3]])
    marks = [torch.from_numpy(labels == 3), torch.tensor([[True] * 3, [False] * 3])]
    assert anomaly.pixel_kinds(labels, 13, (255,), marks).tolist() == [[4, 5, 6], [1, 255, 2]]


def test_one_pass_is_all_at_once():
    """Subsets and towns of a stream of images equal what is measured of all pixels together."""
    images = [image(i, 0.2 * i) for i in range(6)]
    found = anomaly.Evaluation({"all": range(4), "no 3": (0, 1)}, kinds=4)
    for i, (scores, labels) in enumerate(images):
        kinds = anomaly.pixel_kinds(labels, 13, (255,), [torch.from_numpy(labels == 3)])
        found.add(torch.from_numpy(scores), kinds, "ab"[i % 2])
    s, y = (np.stack(part) for part in zip(*images, strict=True))
    for name, some in (("all", y >= 0), ("no 3", y != 3)):
        expected = anomaly.measure(pooled(s[some], y[some] == 13))
        assert anomaly.measure(found.report(name).curve) == pytest.approx(expected, rel=1e-12)
        assert expected == pytest.approx(anomaly.measure(exact_curve(s[some], y[some] == 13)), abs=1e-4)
        each = [
            list(anomaly.measure(exact_curve(a[b], c[b] == 13)).values()) for a, b, c in zip(s, some, y, strict=True)
        ]
        np.testing.assert_allclose(found.report(name).images, each, atol=1e-12)
    town = found.pools["b"].of(*found.sides()).curve()
    assert anomaly.measure(town) == pytest.approx(anomaly.measure(pooled(s[1::2], y[1::2] == 13)), rel=1e-12)


def test_a_subset_may_be_empty():
    """An image of void, one without a pixel of the subset, and a subset that no image has."""
    found = anomaly.Evaluation({"all": range(4), "marked": (2, 3)}, kinds=4)
    scores, labels = image(0)
    for kinds in (anomaly.pixel_kinds(labels, 13), torch.full((20, 20), 255, dtype=torch.uint8)):
        found.add(scores, kinds)
    assert np.isfinite(found.report("all").values["auroc_per_image"])
    empty = found.report("marked")
    assert np.isnan(list(empty.values.values())).all() and np.isnan(empty.draws(3)["auroc_pooled"]).all()


def test_a_pool_takes_memory_for_what_it_has_seen():
    pool = Pool()
    for seed in range(3):
        pool.add(*pixels(50_000, seed=seed))
    assert pool.counts.sum() == 150_000 and pool.counts.numel() * 8 < 2_000_000


def test_unknown_rules_are_errors():
    curve = Curve(np.array([1.0], np.float32), np.array([1]), np.array([1]))
    with pytest.raises(ValueError, match="first or nearest"):
        anomaly.fpr(curve, rule="last")
    with pytest.raises(ValueError, match="step or trapezoid"):
        anomaly.aupr(curve, "simpson")
    with pytest.raises(ValueError, match="no image"):
        evaluate([], 13)
