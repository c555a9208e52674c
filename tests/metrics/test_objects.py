"""The measures of objecthood: invariances, bounds, agreement with scikit-learn, and every corner that has a rule."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score, jaccard_score

from lib.masks import guided, harden, merge, merge_overlapping
from lib.metrics import controls, objects, tracking
from lib.studies import comparison
from lib.studies.backbones import materials, reflections
from lib.studies.objects import tables
from lib.studies.objects import tracking as videos

LABELS = hnp.arrays(np.int64, (6, 6), elements=st.integers(0, 4))


@given(LABELS, LABELS, st.permutations(range(5)))
@settings(max_examples=60)
def test_names_of_segments_do_not_matter(truth, predicted, names):
    renamed = np.array(names)[predicted]
    for measure in (objects.ari, objects.fg_ari, objects.mbo, objects.miou):
        np.testing.assert_allclose(measure(truth, renamed), measure(truth, predicted), atol=1e-12)


@given(LABELS, LABELS, st.permutations(range(1, 5)))
@settings(max_examples=60)
def test_names_of_objects_do_not_matter_but_background_is_background(truth, predicted, names):
    renamed = np.array([0, *names])[truth]
    for measure in (objects.ari, objects.fg_ari, objects.mbo, objects.miou):
        np.testing.assert_allclose(measure(renamed, predicted), measure(truth, predicted), atol=1e-12)


@given(LABELS, LABELS)
@settings(max_examples=100)
def test_bounds_and_order(truth, predicted):
    fg, mbo, miou = (m(truth, predicted) for m in (objects.fg_ari, objects.mbo, objects.miou))
    if not (truth > 0).any():
        assert math.isnan(fg) and math.isnan(mbo) and math.isnan(miou)
        return
    assert -1 <= fg <= 1 and 0 <= miou <= mbo <= 1, "a one-to-one matching cannot beat the best"


@given(LABELS, LABELS)
@settings(max_examples=60)
def test_agreement_with_scikit_learn(truth, predicted):
    assert objects.ari(truth, predicted) == pytest.approx(adjusted_rand_score(truth.ravel(), predicted.ravel()))
    if (truth > 0).any():
        expected = adjusted_rand_score(truth[truth > 0], predicted[truth > 0])
        assert objects.fg_ari(truth, predicted) == pytest.approx(expected)
        ids = [i for i in np.unique(truth) if i > 0]
        best = [max(jaccard_score(truth.ravel() == i, predicted.ravel() == k) for k in range(5)) for i in ids]
        assert objects.mbo(truth, predicted) == pytest.approx(np.mean(best))


@given(LABELS)
@settings(max_examples=40)
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


def test_how_many_objects_are_identified_and_into_how_many_parts_they_are_cut():
    truth = np.zeros((4, 8), int)
    truth[:, 2:4], truth[:, 4:6] = 1, 2
    whole = truth.copy()
    assert objects.oir(truth, whole) == 1 and objects.dof(truth, whole) == 1
    cut = truth.copy()
    cut[:2, 2:4] = 7  # object 1 in two halves: each has an IoU of exactly a half
    assert objects.oir(truth, cut) == 1 and objects.dof(truth, cut) == 1.5
    cut[:1, 2:4] = 8  # a quarter, a quarter and a half
    assert objects.oir(truth, cut) == 1 and objects.dof(truth, cut) == 2
    shared = np.where(truth > 0, 1, 0)  # one segment, half of it on either object
    assert objects.oir(truth, shared) == 1 and objects.dof(truth, shared) == 1
    lost = np.zeros_like(truth)  # the background's segment holds both, a quarter of it each
    assert objects.oir(truth, lost) == 0 and math.isnan(objects.dof(truth, lost))
    nothing = np.zeros_like(truth)
    assert math.isnan(objects.oir(nothing, whole)) and math.isnan(objects.dof(nothing, whole))


def test_mask_similarity_from_none_to_collapse():
    assert objects.mask_similarity(soft(np.arange(4).reshape(2, 2), 4)) == pytest.approx(0)
    assert objects.mask_similarity(torch.full((5, 8, 8), 0.2)) == pytest.approx(1)
    assert math.isnan(objects.mask_similarity(torch.ones(1, 4, 4)))


def test_the_cosine_of_slots_reaches_its_minimum():
    simplex = torch.eye(4) - 1 / 4  # K vectors cannot be further apart than -1/(K-1)
    assert objects.mean_pairwise_cosine(simplex) == pytest.approx(-1 / 3)
    assert objects.mean_pairwise_cosine(torch.ones(4, 7)) == pytest.approx(1)


def test_entropy_and_active_slots():
    sure, unsure = soft(np.arange(4).repeat(25).reshape(10, 10), 5), torch.full((5, 10, 10), 0.2)
    assert objects.mask_entropy(sure) == 0 and objects.mask_entropy(unsure) == pytest.approx(1)
    assert objects.active_slots(sure) == 4 and objects.active_slots(unsure) == 1
    nearly = soft(np.zeros((20, 20), int), 3)
    nearly[:, 0, 0] = torch.tensor([0.0, 1.0, 0.0])
    assert objects.active_slots(nearly) == 1, "one pixel of 400 is no slot"


@given(st.permutations(range(5)))
@settings(max_examples=30)
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


SOFT = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).softmax(1)
IDS = np.random.default_rng(0).integers(0, 4, (2, 16, 16))
NAMES = "masks|slots|vectors|first|second|predicted|images|pictures"
ON_MASKS = {
    "evaluate": lambda ids, masks: objects.evaluate(ids, masks),
    "evaluate, video": lambda ids, masks: objects.evaluate(ids[None], masks[None]),
    "mask_similarity": lambda ids, masks: objects.mask_similarity(masks[0]),
    "mean_pairwise_cosine": lambda ids, masks: objects.mean_pairwise_cosine(masks[0, :, 0]),
    "mask_entropy": lambda ids, masks: objects.mask_entropy(masks[0]),
    "active_slots": lambda ids, masks: objects.active_slots(masks[0]),
    "mask_stability": lambda ids, masks: objects.mask_stability(masks[1], masks[0]),
    "pairwise_stability": lambda ids, masks: objects.pairwise_stability(masks),
    "bleeding": lambda ids, masks: tables.bleeding(ids[0], masks[0]),
    "boundary": lambda ids, masks: comparison.boundary(ids[0], masks[0]),
    "runs": tracking.runs,
    "identity_switches": tracking.identity_switches,
    "keep_length": tracking.keep_length,
    "max_activation": lambda ids, masks: videos.max_activation(masks),
    "slot_similarity": lambda ids, masks: videos.slot_similarity(masks[..., 0]),
    "missed": lambda ids, masks: tables.missed(ids, masks),
    "judge": lambda ids, masks: materials.judge(masks, ids).to_numpy(),
    "reflections": lambda ids, masks: reflections.reflections(masks, ids, masks).to_numpy(),
    "merge": lambda ids, masks: merge(masks, masks[..., 0], None, 0.3),
    "merge_overlapping": lambda ids, masks: merge_overlapping(masks),
    "guided": lambda ids, masks: guided(masks, masks),
    "harden": lambda ids, masks: harden(masks),
    "kmeans_rgb": lambda ids, masks: controls.kmeans_rgb(masks[:, :, :4, :4], 2),
}


@pytest.mark.parametrize("measure", ON_MASKS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_by_its_name(measure, bad):
    """An argmax of NaN is slot 0 everywhere, which is perfect on one object: FG-ARI 1.0 of a model that diverged."""
    spoilt = SOFT.clone()
    spoilt[0, 1, 0, 0] = bad
    with pytest.raises(ValueError, match=f"^({NAMES}): 1 of .* not finite"):
        ON_MASKS[measure](IDS, spoilt)


@pytest.mark.parametrize("measure", [objects.ari, objects.fg_ari, objects.mbo, objects.miou, objects.iou_matrix])
def test_labels_that_are_no_numbers_are_refused(measure):
    with pytest.raises(ValueError, match="predicted: 1 of 512"):
        measure(IDS, np.where(np.arange(512).reshape(IDS.shape) == 7, np.nan, IDS))


def same(found, expected, rtol=1e-6):
    """Equal values of whatever a measure returns."""
    for a, b in zip(*(torch.utils._pytree.tree_leaves(x) for x in (found, expected)), strict=True):
        a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, equal_nan=True)


@pytest.mark.parametrize("measure", ON_MASKS)
def test_labels_of_any_type_and_stride_and_masks_with_gradients(measure):
    expected = ON_MASKS[measure](IDS, SOFT)
    for kind in (np.int8, np.uint8, np.uint16, np.int32, np.uint64, float):
        same(ON_MASKS[measure](IDS.astype(kind), SOFT), expected)
    for ids in (torch.from_numpy(IDS), torch.from_numpy(IDS.astype(np.uint16)), torch.from_numpy(IDS).bfloat16()):
        same(ON_MASKS[measure](ids, SOFT), expected)
    same(ON_MASKS[measure](IDS[..., ::-1].copy()[..., ::-1], SOFT), expected)
    same(ON_MASKS[measure](IDS > 0, SOFT), ON_MASKS[measure]((IDS > 0).astype(int), SOFT))
    same(ON_MASKS[measure](IDS, SOFT.bfloat16()), ON_MASKS[measure](IDS, SOFT.bfloat16().float()), 0.01)
    same(ON_MASKS[measure](IDS, SOFT.clone().requires_grad_()), expected)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [("000", "111", 1), ("012", "201", 1), ("000", "012", 0), ("012", "000", 0), ("5", "3", 1)],
)
def test_ari_of_degenerate_clusterings(truth, predicted, expected):
    """As the published code has it: one cluster, or singletons, on both sides agree perfectly."""
    assert objects.ari(*(np.array([*map(int, x)]) for x in (truth, predicted))) == expected


def test_ari_of_very_large_clusterings_is_exact():
    """Four million pixels: numbers of pairs, and their products, are beyond what 32 and 64 bits hold."""
    n = 1 << 22
    truth = np.arange(n) * 4 // n
    predicted = np.where(np.arange(n) < n // 8, 4, truth)  # half of the first quarter is cut off
    together = sum(c * (c - 1) // 2 for c in (n // 8, n // 8, n // 4, n // 4, n // 4))  # every part lies in one quarter
    rows, pairs = 4 * ((n // 4) * (n // 4 - 1) // 2), n * (n - 1) // 2
    chance = Fraction(rows * together, pairs)
    expected = (together - chance) / (Fraction(rows + together, 2) - chance)
    assert objects.ari(truth, predicted) == pytest.approx(float(expected), abs=1e-12)


def test_three_hundred_slots():
    truth = torch.arange(400).view(1, 20, 20) % 301
    masks = torch.nn.functional.one_hot(truth % 300, 300).movedim(-1, 1).float()
    found = {k: v[0] for k, v in objects.evaluate(truth, masks).items()}
    assert found["active_slots"] == 0, "none has a hundredth of the picture"
    assert found["fg_ari"] > 0.95 and found["miou"] == pytest.approx(found["mbo"], abs=0.01) and found["mbo"] > 0.98
    merged = merge(masks, torch.eye(300)[None], None, 0.5)
    assert torch.equal(merged, masks), "slots at right angles are 1.4 apart"
