"""Following objects: perfect for the truth, chance for reshuffled slots, blind to the names of slots."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib.metrics.tracking import identity_switches, keep_length, runs

VIDEO = hnp.arrays(np.int64, (5, 3, 3), elements=st.integers(0, 3))


def strip(*frames):
    """A video `[T, 1, W]` from one row a frame."""
    return np.array(frames)[:, None, :]


@given(VIDEO, VIDEO, st.permutations(range(4)), st.permutations(range(1, 4)))
@settings(max_examples=100)
def test_names_of_slots_and_of_objects_do_not_matter(truth, slots, names, ids):
    for measure in (identity_switches, keep_length):
        np.testing.assert_equal(measure(truth, np.array(names)[slots]), measure(truth, slots))
        np.testing.assert_allclose(measure(np.array([0, *ids])[truth], slots), measure(truth, slots))


@given(VIDEO, VIDEO)
@settings(max_examples=100)
def test_bounds_and_lengths(truth, slots):
    lengths = runs(truth, slots)
    visible = {int(i): int((truth == i).any((1, 2)).sum()) for i in np.unique(truth) if i > 0}
    assert {i: sum(values) for i, values in lengths.items()} == visible, "runs cover the visible frames"
    switches, kept = identity_switches(truth, slots), keep_length(truth, slots)
    if all(count < 2 for count in visible.values()):
        assert math.isnan(switches) and math.isnan(kept)
    else:
        assert 0 <= switches <= 1 and 1 / 5 <= kept <= 1 and (switches == 0) == (kept == 1)


@given(VIDEO, VIDEO)
@settings(max_examples=50)
def test_time_runs_both_ways(truth, slots):
    assert identity_switches(truth[::-1], slots[::-1]) == pytest.approx(identity_switches(truth, slots), nan_ok=True)


@given(VIDEO)
@settings(max_examples=50)
def test_the_truth_itself_never_switches(truth):
    if (np.array([(truth == i).any((1, 2)).sum() for i in (1, 2, 3)]) > 1).any():
        assert identity_switches(truth, truth) == 0 and keep_length(truth, truth) == 1


@pytest.mark.parametrize("num_slots", [2, 4, 7])
def test_slots_reshuffled_in_each_frame_switch_by_chance(num_slots):
    generator = np.random.default_rng(0)
    truth = np.tile(np.arange(num_slots), (600, 1))[:, None, :]
    shuffled = np.stack([generator.permutation(num_slots)[frame] for frame in truth])
    assert identity_switches(truth, shuffled) == pytest.approx((num_slots - 1) / num_slots, abs=0.02)
    assert keep_length(truth, shuffled) < 0.03


def test_a_swap_costs_one_transition_of_each_object():
    truth = strip([1, 2], [1, 2], [1, 2], [1, 2], [1, 2])
    slots = strip([5, 6], [5, 6], [6, 5], [6, 5], [6, 5])
    assert runs(truth, slots) == {1: [2, 3], 2: [2, 3]}
    assert identity_switches(truth, slots) == 1 / 4 and keep_length(truth, slots) == 3 / 5


def test_a_hidden_object_should_come_back_to_its_slot():
    truth = strip([1, 2], [0, 2], [1, 2])
    assert identity_switches(truth, strip([5, 6], [6, 6], [5, 6])) == 0
    assert identity_switches(truth, strip([5, 6], [5, 6], [7, 6])) == pytest.approx((1 + 0) / 2)
    once = strip([1, 2], [0, 2], [0, 2])
    assert runs(once, strip([5, 6], [6, 6], [5, 6])) == {1: [1], 2: [3]}
    assert identity_switches(once, once) == 0, "the one that is seen once is left out"


def test_the_best_slot_is_the_one_of_best_iou_not_of_most_pixels():
    truth = strip([1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0])
    slots = strip([8, 7, 7, 7, 7, 7, 7, 7], [8, 8, 7, 7, 7, 7, 7, 7])
    assert runs(truth, slots) == {1: [2]}, "slot 8 in both: 1/3 beats 2/8"


def test_a_tie_is_no_switch_while_one_slot_can_hold_on():
    truth = strip([1, 1], [1, 1], [1, 1])
    assert runs(truth, strip([8, 9], [9, 9], [8, 9])) == {1: [3]}, "slot 9 held it throughout"
    assert runs(truth, strip([9, 9], [8, 9], [8, 8])) == {1: [2, 1]}, "no slot did"


def test_soft_masks_are_decided_by_the_largest():
    truth = strip([1, 2], [1, 2])
    hard = strip([0, 1], [0, 2])
    masks = torch.nn.functional.one_hot(torch.from_numpy(hard), 3).permute(0, 3, 1, 2) * 0.4 + 0.2
    assert runs(truth, masks) == runs(truth, hard) == {1: [2], 2: [1, 1]}
    for wrong in (masks[:1], masks[..., :1], hard[0]):
        with pytest.raises(ValueError, match="are not"):
            runs(truth, wrong)


def test_nothing_to_follow_is_nan():
    empty = np.zeros((3, 2, 2), int)
    assert math.isnan(identity_switches(empty, empty)) and math.isnan(keep_length(empty, empty))
