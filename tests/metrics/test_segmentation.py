"""Segmentation measures: agreement with scikit-learn, one rule for absent classes, components by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import confusion_matrix, jaccard_score

from lib.metrics import segmentation as seg

LABELS = hnp.arrays(np.int64, (6, 6), elements=st.integers(0, 4))
MASKS = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).random((12, 12)) < 0.5)


@given(LABELS, LABELS)
@settings(max_examples=80)
def test_agreement_with_scikit_learn(truth, predicted):
    matrix = seg.confusion(truth, predicted, 5)
    np.testing.assert_array_equal(matrix, confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(5)))
    for c, value in enumerate(seg.iou(matrix)):
        if (truth == c).any():
            assert value == pytest.approx(jaccard_score(truth.ravel() == c, predicted.ravel() == c))
        else:
            assert math.isnan(value)


@given(LABELS, LABELS)
@settings(max_examples=60)
def test_absent_classes_follow_the_rule(truth, predicted):
    matrix = seg.confusion(truth, predicted, 5)
    present = len(np.unique(truth))
    skip, zero = (seg.miou(matrix, rule) for rule in seg.ABSENT)
    assert zero == pytest.approx(skip * present / 5)
    assert seg.miou(seg.confusion(truth, truth, 5)) == 1


def test_twelve_and_thirteen_classes():
    """The published pair 49.75 and 53.9 is one result under two rules."""
    labels = np.delete(np.arange(13), 4).repeat(10)
    predicted = labels.copy()
    predicted[::2] = (labels[::2] + 1) % 13
    predicted[labels == 3] = 4  # pedestrian has no true pixel, but is predicted
    found = seg.summary(seg.confusion(labels, predicted, 14), dropped=4)
    assert found["miou"] == found["miou_12"] == pytest.approx(found["miou_13"] * 13 / 12)
    assert 0 < found["miou"] < 1 and found["miou_published"] == found["miou_13"], "without anomalies they agree"


def test_the_published_rule_counts_what_is_said_of_anomalies():
    """Class 0 has 10 pixels, class 1 too, class 2 none; of 10 anomaly pixels 8 are called 0 and two 2."""
    truth, predicted = np.repeat([0, 1, 3], 10), np.array([0] * 10 + [1] * 10 + [0] * 8 + [2] * 2)
    found = seg.summary(seg.confusion(truth, predicted, 4), dropped=2)
    assert found == {"miou": 1, "miou_3": 2 / 3, "miou_2": 1, "miou_published": pytest.approx((10 / 18 + 1) / 3)}


def test_anomalies_void_and_other_are_dropped():
    truth, predicted = np.array([0, 1, 13, 255, 3]), np.array([0, 0, 1, 2, 3])
    assert seg.confusion(truth, predicted, 13).sum() == 3
    with pytest.raises(ValueError, match=r"0\.\.12"):
        seg.confusion([0], [13], 13)
    with pytest.raises(ValueError, match="differ in shape"):
        seg.confusion([0, 1], [0], 13)
    with pytest.raises(ValueError, match="skip, zero"):
        seg.miou(np.eye(2), "nan")
    assert math.isnan(seg.miou(np.zeros((3, 3))))


def test_only_the_means_over_batches_move_with_the_batch():
    rng = np.random.default_rng(0)
    truth = rng.choice(6, (12, 8, 8), p=[0.6, 0.3, 0.05, 0.03, 0.01, 0.01])
    predicted = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 6, truth.shape), truth)
    matrices = np.stack([seg.confusion(t, p, 6) for t, p in zip(truth, predicted, strict=True)])
    assert seg.miou(matrices.sum(0)) == pytest.approx(seg.miou(seg.confusion(truth, predicted, 6)))
    assert seg.miou_per_batch(matrices, 12) == pytest.approx(seg.miou(matrices.sum(0)))
    assert abs(seg.miou_per_batch(matrices, 1) - seg.miou_per_batch(matrices, 4)) > 0.02


def test_open_miou_counts_false_alarms_and_missed_anomalies():
    truth = np.array([0] * 10 + [1] * 10 + [2] * 10)
    closed = np.array([0] * 10 + [1] * 10 + [0] * 10)  # a network can only say 0 or 1
    scores = np.array([0.0] * 8 + [1.0] * 2 + [0.0] * 10 + [1.0] * 6 + [0.0] * 4)
    labels = seg.open_labels(closed, scores, 0.5, 2)
    # Class 0: 8 hits, 2 lost to alarms, 4 anomalies pass as it. Class 1 is whole.
    assert seg.open_miou(seg.confusion(truth, labels, 3)) == pytest.approx((8 / 14 + 1) / 2)
    never = seg.open_labels(closed, scores, math.inf, 2)
    assert seg.open_miou(seg.confusion(truth, never, 3)) == pytest.approx((10 / 20 + 1) / 2)


def brute_components(truth, predicted, smallest_truth=1, smallest_predicted=1):
    """The definitions of the paper with sets of pixels; sizes as in its code."""

    def parts(mask):
        left, found = set(zip(*np.nonzero(mask), strict=True)), []
        while left:
            edge, part = [left.pop()], set()
            while edge:
                y, x = edge.pop()
                part.add((y, x))
                near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
                left -= near
                edge += near
            found.append(part)
        return found

    true, found, siou = parts(truth), [f for f in parts(predicted) if len(f) >= smallest_predicted], []
    void = set().union(*(t for t in true if len(t) < smallest_truth))
    true, found = [t for t in true if len(t) >= smallest_truth], [f - void for f in found if f - void]
    for part in true:
        touching = set().union(*(f for f in found if f & part))
        other = set().union(*(t for t in true if t is not part))
        siou.append(len(part & touching) / len((part | touching) - (other & touching - part)))
    everything = set().union(*true)
    return sorted(siou), sorted(len(f & everything) / len(f) for f in found)


@given(MASKS, MASKS, st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=150)
def test_components_agree_with_sets_of_pixels(truth, predicted, smallest_truth, smallest_predicted):
    # Sparse masks, so that there are several components.
    truth[1::2, 1::2] = predicted[::3] = False
    found = seg.components(truth, predicted, None, smallest_truth, smallest_predicted)
    expected = brute_components(truth, predicted, smallest_truth, smallest_predicted)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(sorted(ours), theirs)


def test_a_prediction_is_found_before_small_truths_are_taken_out():
    """A bar of 9 px over an anomaly of 1 px, which does not count, and at its end one of 4 px.

    The bar is one component of 9 px. Cut first, it would be two of 4, fall below the limit of 5 and miss everything.
    """
    truth, predicted = np.zeros((3, 11), bool), np.zeros((3, 11), bool)
    predicted[1, 1:10] = True
    truth[1, 5] = truth[1, 8:11] = truth[2, 10] = True
    siou, ppv = seg.components(truth, predicted, smallest_truth=2, smallest_predicted=5)
    assert siou.tolist() == [2 / 10] and ppv.tolist() == [2 / 8]


def test_as_many_components_as_a_frame_holds():
    """230,400 predicted and true ones: products of numbers overflow 32 bits, and a table of pairs fills 400 GB."""
    truth = np.zeros((960, 960), bool)
    truth[::2, ::2] = True
    siou, ppv = seg.components(truth, truth)
    assert len(siou) == len(ppv) == 230_400 and siou.min() == ppv.min() == 1


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.uint16, np.int64])
def test_labels_of_every_integer_type(kind):
    truth, predicted = np.array([[0, 1, 1], [0, 0, 1]]), np.array([[0, 1, 0], [1, 0, 1]])
    assert seg.confusion(truth.astype(kind)[:, ::-1], predicted.astype(kind)[:, ::-1], 2).tolist() == [[2, 1], [1, 2]]
    np.testing.assert_allclose(seg.components(truth.astype(kind), predicted.astype(kind))[0], 2 / 4)


@pytest.mark.parametrize("spoiled", [[0.0, 1.0], [0.0, np.nan], [0, -1]])
def test_labels_that_are_no_ids_are_refused(spoiled):
    fine = [0, 1]
    for name, call in {
        "truth": lambda: seg.confusion(spoiled, fine, 2),
        "predicted": lambda: seg.confusion(fine, spoiled, 2),
        "truth:": lambda: seg.components([spoiled], [fine]),
        "predicted:": lambda: seg.components([fine], [spoiled]),
        "ignored": lambda: seg.components([fine], [fine], [spoiled]),
        "predicted: ": lambda: seg.open_labels(spoiled, [0.1, 0.2], 0.15, 2),
    }.items():
        with pytest.raises(ValueError, match=name):
            call()


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="1 scores are NaN"):
        seg.open_labels([0, 1], [0.1, np.nan], 0.15, 2)
    with pytest.raises(ValueError, match=r"threshold \(nan\)"):
        seg.open_labels([0, 1], [0.1, 0.2], np.nan, 2)
    for matrix in ([[1, np.nan], [0, 1]], [[1, -1], [0, 1]], [[1, 2]]):
        with pytest.raises(ValueError, match="square and hold counts"):
            seg.miou(matrix)
    with pytest.raises(ValueError, match="siou holds"):
        seg.component_summary([0.5, np.nan], [1.0])
    with pytest.raises(ValueError, match="ppv holds"):
        seg.component_summary([0.5], [1.5])


def test_splitting_an_object_or_joining_two_is_no_error_of_either():
    truth = np.zeros((9, 20), bool)
    truth[3:6, 2:6], truth[3:6, 10:14] = True, True
    split = truth.copy()
    split[:, 4] = False
    siou, ppv = seg.components(truth, split)
    np.testing.assert_allclose(siou, [0.75, 1])
    np.testing.assert_allclose(ppv, 1)
    joined = truth.copy()
    joined[4, 2:14] = True
    siou, ppv = seg.components(truth, joined)
    np.testing.assert_allclose(siou, [12 / 16, 12 / 16])
    np.testing.assert_allclose(ppv, [24 / 28])


def test_sizes_and_void():
    truth, predicted = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    truth[0, 0], truth[4:8, 4:8] = True, True
    predicted[0, 0], predicted[4:8, 4:8], predicted[9, 0] = True, True, True
    siou, ppv = seg.components(truth, predicted, smallest_truth=4, smallest_predicted=4)
    assert siou.tolist() == [1] and ppv.tolist() == [1]
    siou, ppv = seg.components(truth, predicted, smallest_truth=4)
    assert siou.tolist() == [1] and sorted(ppv) == [0, 1], "what lies on an ignored object is neither hit nor alarm"
    void = np.zeros((10, 10), bool)
    void[9] = True
    assert seg.components(truth, predicted, void)[1].tolist() == [1, 1]
    with pytest.raises(ValueError, match="differ in shape"):
        seg.components(truth, predicted[:5])


def test_f1_over_thresholds():
    assert seg.component_summary([1, 1], [1, 1]) == {"siou": 1, "ppv": 1, "f1": 1}
    half = seg.component_summary([0.5], [1.0])  # found at the five thresholds below 0.5
    assert half["f1"] == pytest.approx(5 / 11)
    missed = seg.component_summary([0.0], [])
    assert missed["f1"] == 0 and math.isnan(missed["ppv"])
    assert math.isnan(seg.component_summary([], [])["f1"])
