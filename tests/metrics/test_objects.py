"""The measures of objecthood: invariances, bounds, agreement with scikit-learn, and every corner that has a rule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score, jaccard_score

from lib.metrics import objects

LABELS = hnp.arrays(np.int64, (6, 6), elements=st.integers(0, 4))


@given(LABELS, LABELS, st.permutations(range(5)))
@settings(max_examples=60, deadline=None)
def test_names_of_segments_do_not_matter(truth, predicted, names):
    renamed = np.array(names)[predicted]
    for measure in (objects.ari, objects.fg_ari, objects.mbo, objects.miou):
        np.testing.assert_allclose(measure(truth, renamed), measure(truth, predicted), atol=1e-12)


@given(LABELS, LABELS, st.permutations(range(1, 5)))
@settings(max_examples=60, deadline=None)
def test_names_of_objects_do_not_matter_but_background_is_background(truth, predicted, names):
    renamed = np.array([0, *names])[truth]
    for measure in (objects.ari, objects.fg_ari, objects.mbo, objects.miou):
        np.testing.assert_allclose(measure(renamed, predicted), measure(truth, predicted), atol=1e-12)


@given(LABELS, LABELS)
@settings(max_examples=100, deadline=None)
def test_bounds_and_order(truth, predicted):
    fg, mbo, miou = (m(truth, predicted) for m in (objects.fg_ari, objects.mbo, objects.miou))
    if not (truth > 0).any():
        assert math.isnan(fg) and math.isnan(mbo) and math.isnan(miou)
        return
    assert -1 <= fg <= 1 and 0 <= miou <= mbo <= 1, "a one-to-one matching cannot beat the best"


@given(LABELS, LABELS)
@settings(max_examples=60, deadline=None)
def test_agreement_with_scikit_learn(truth, predicted):
    assert objects.ari(truth, predicted) == pytest.approx(adjusted_rand_score(truth.ravel(), predicted.ravel()))
    if (truth > 0).any():
        expected = adjusted_rand_score(truth[truth > 0], predicted[truth > 0])
        assert objects.fg_ari(truth, predicted) == pytest.approx(expected)
        ids = [i for i in np.unique(truth) if i > 0]
        best = [max(jaccard_score(truth.ravel() == i, predicted.ravel() == k) for k in range(5)) for i in ids]
        assert objects.mbo(truth, predicted) == pytest.approx(np.mean(best))


@given(LABELS)
@settings(max_examples=40, deadline=None)
def test_the_truth_itself_is_perfect(truth):
    if (truth > 0).any():
        assert [m(truth, truth) for m in (objects.fg_ari, objects.ari, objects.mbo, objects.miou)] == [1, 1, 1, 1]


def test_half_planes_over_two_objects_show_what_fg_ari_cannot_see():
    truth = np.zeros((64, 64), int)
    truth[28:36, 12:20], truth[28:36, 44:52] = 1, 2
    halves = np.zeros((64, 64), int)
    halves[:, 32:] = 1
    assert objects.fg_ari(truth, halves) == 1.0
    assert objects.ari(truth, halves) < 0.05 and objects.mbo(truth, halves) < 0.05


def test_one_object():
    truth = np.zeros((4, 4), int)
    truth[1:3, 1:3] = 1
    split = truth.copy()
    split[1, 1] = 2
    assert objects.fg_ari(truth, truth) == 1 and objects.fg_ari(truth, split) == 0
    assert objects.mbo(truth, split) == pytest.approx(3 / 4)


def test_more_objects_than_slots():
    truth = np.arange(4).repeat(4).reshape(4, 4)  # background and three objects
    predicted = np.where(truth < 2, 0, 1)  # two slots
    # Objects 2 and 3 share slot 1 (IoU 1/2 each), object 1 shares slot 0 with background (IoU 1/2).
    assert objects.mbo(truth, predicted) == pytest.approx(1 / 2)
    assert objects.miou(truth, predicted) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3), "the one left over counts 0"


def test_missing_background():
    truth = np.array([[1, 1], [2, 2]])
    assert objects.fg_ari(truth, truth) == objects.ari(truth, truth) == objects.mbo(truth, truth) == 1


def test_a_slot_on_background_changes_ari_but_not_fg_ari():
    truth = np.zeros((8, 8), int)
    truth[2:6, 2:6] = 1
    cut = truth.copy()
    cut[:, 7] = 9
    assert objects.fg_ari(truth, cut) == 1 and objects.ari(truth, cut) < 1


def soft(labels: np.ndarray, slots: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(labels), slots).movedim(-1, 0).double()


def test_mask_similarity_from_none_to_collapse():
    assert objects.mask_similarity(soft(np.arange(4).reshape(2, 2), 4)) == pytest.approx(0)
    assert objects.mask_similarity(torch.full((5, 8, 8), 0.2)) == pytest.approx(1)
    assert math.isnan(objects.mask_similarity(torch.ones(1, 4, 4)))


def test_slot_diversity_reaches_its_minimum():
    simplex = torch.eye(4) - 1 / 4  # K vectors cannot be further apart than -1/(K-1)
    assert objects.slot_diversity(simplex) == pytest.approx(-1 / 3)
    assert objects.slot_diversity(torch.ones(4, 7)) == pytest.approx(1)


def test_entropy_and_active_slots():
    sure, unsure = soft(np.arange(4).repeat(25).reshape(10, 10), 5), torch.full((5, 10, 10), 0.2)
    assert objects.mask_entropy(sure) == 0 and objects.mask_entropy(unsure) == pytest.approx(1)
    assert objects.active_slots(sure) == 4 and objects.active_slots(unsure) == 1
    nearly = soft(np.zeros((20, 20), int), 3)
    nearly[:, 0, 0] = torch.tensor([0.0, 1.0, 0.0])
    assert objects.active_slots(nearly) == 1, "one pixel of 400 is no slot"


@given(st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_stability_is_one_under_permutation_only_when_matched(order):
    masks = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(0)
    masks = soft(masks.argmax(0).numpy(), 5)
    moved = masks[list(order)]
    assert objects.mask_stability(masks, moved) == pytest.approx(1)
    fixed = sum(i == j for i, j in enumerate(order)) / 5
    assert objects.mask_stability(masks, moved, matched=False) == pytest.approx(fixed)


def test_pairwise_stability_is_the_mean_over_pairs():
    versions = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pairs = [objects.mask_stability(versions[i], versions[j]) for i in range(4) for j in range(i + 1, 4)]
    assert objects.pairwise_stability(versions) == pytest.approx(np.mean(pairs))


def test_a_batch_of_images_is_its_images():
    generator = torch.Generator().manual_seed(0)
    truth, masks = torch.randint(0, 3, (4, 16, 16), generator=generator), torch.rand(4, 5, 16, 16, generator=generator)
    batch = objects.evaluate(truth, masks)
    assert set(batch) == set(objects.KEYS) and all(v.shape == (4,) for v in batch.values())
    assert batch["mbo"][2] == pytest.approx(objects.mbo(truth[2], masks[2].argmax(0)))


def test_a_video_must_keep_its_slots():
    truth = torch.zeros(1, 2, 8, 8, dtype=torch.long)
    truth[..., 1:4, 1:4], truth[..., 5:8, 5:8] = 1, 2
    masks = torch.nn.functional.one_hot(truth, 3).movedim(-1, 2).float()  # [B, T, K, H, W]
    swapped = masks.clone()
    swapped[:, 1] = swapped[:, 1, [0, 2, 1]]  # identities swap in the second frame
    assert objects.evaluate(truth, masks)["video_fg_ari"] == pytest.approx(1)
    assert objects.evaluate(truth, swapped)["video_fg_ari"] < 0.01
    assert objects.evaluate(truth[0], swapped[0])["fg_ari"].mean() == pytest.approx(1), "each frame alone is perfect"


def test_small_masks_grow_before_they_are_judged():
    truth = torch.zeros(1, 32, 32, dtype=torch.long)
    truth[:, 8:24, 8:24] = 1
    masks = torch.nn.functional.one_hot(truth[:, ::8, ::8], 2).movedim(-1, 1).float()  # [1, 2, 4, 4]
    assert objects.evaluate(truth, masks)["mbo"] > 0.7


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="differ in shape"):
        objects.ari(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="empty"):
        objects.mbo(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="differ in shape"):
        objects.mask_stability(torch.ones(2, 4, 4), torch.ones(3, 4, 4))


def test_bleeding_is_the_share_of_a_mask_outside_its_object():
    truth = torch.tensor([[1, 1, 0, 0], [2, 0, 0, 0]])
    exact = torch.stack([(truth == i).float() for i in range(3)])
    assert objects.bleeding(truth, exact) == {1: 0.0, 2: 0.0}
    assert objects.bleeding(truth, exact, background=True) == {0: 0.0, 1: 0.0, 2: 0.0}
    wide = exact.clone()
    wide[1, 0, 2], wide[0, 0, 2] = 0.5, 0.5  # half a pixel of background goes to object 1's two
    found = objects.bleeding(truth, wide, background=True)
    assert found[1] == pytest.approx(0.2) and found[2] == 0 and found[0] == 0
    uniform = torch.full((3, 2, 4), 1 / 3)
    assert objects.bleeding(truth, uniform)[2] == pytest.approx(7 / 8)
