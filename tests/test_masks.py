"""What comes after the model changes names and edges, and never the sum of the masks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.masks import guided, harden, merge, merge_overlapping

torch.manual_seed(0)
MASKS = torch.rand(2, 4, 64).softmax(1)
SLOTS = torch.randn(2, 4, 8)
FRAMES = torch.cat([torch.rand(2, 4, 2) * 2 - 1, torch.full((2, 4, 1), 0.2)], dim=-1)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 3), st.booleans())
def test_merging_keeps_the_sum_and_only_adds_slots_up(threshold, placed):
    merged = merge(MASKS, SLOTS, FRAMES if placed else None, threshold)
    torch.testing.assert_close(merged.sum(1), MASKS.sum(1))
    assert (merged.flatten(2).sum(-1).count_nonzero(1) >= 1).all()


def test_nothing_and_everything_can_be_merged():
    torch.testing.assert_close(merge(MASKS, SLOTS, FRAMES, 0.0), MASKS)
    one = merge(MASKS, SLOTS, None, 2.1)
    torch.testing.assert_close(one[:, 0], MASKS.sum(1))
    assert one[:, 1:].abs().max() == 0


def test_a_single_slot_is_merged_with_nobody():
    alone = torch.ones(2, 1, 64)
    torch.testing.assert_close(merge(alone, SLOTS[:, :1], FRAMES[:, :1], 0.5), alone)


def test_equal_slots_are_merged_unless_they_are_far_apart():
    slots = SLOTS.clone()
    slots[:, 2] = 3 * slots[:, 0]  # the same direction: length does not count
    near = FRAMES.clone()
    near[:, 2] = near[:, 0]
    merged = merge(MASKS, slots, near, 0.1)
    torch.testing.assert_close(merged[:, 0], MASKS[:, 0] + MASKS[:, 2])
    assert merged[:, 2].abs().max() == 0
    far = near.clone()
    far[:, 0, :2], far[:, 2, :2] = -0.9, 0.9
    torch.testing.assert_close(merge(MASKS, slots, far, 0.1), MASKS)


def test_the_order_of_slots_does_not_matter():
    order = torch.tensor([3, 1, 0, 2])
    first, second = merge(MASKS, SLOTS, FRAMES, 1.0), merge(MASKS[:, order], SLOTS[:, order], FRAMES[:, order], 1.0)
    torch.testing.assert_close(first.sort(1).values, second.sort(1).values)


def test_a_video_is_merged_as_a_whole():
    slots = torch.stack([SLOTS, SLOTS + 0.01 * torch.randn_like(SLOTS)], dim=1)  # [B, T, K, D]
    slots[:, 0, 1] = slots[:, 0, 0]  # alike in one frame alone
    masks = MASKS[:, None].repeat(1, 2, 1, 1)
    torch.testing.assert_close(merge(masks, slots, None, 0.05), masks)
    slots[:, 1, 1] = slots[:, 1, 0]
    merged = merge(masks, slots, None, 0.05)
    torch.testing.assert_close(merged[:, :, 0], masks[:, :, 0] + masks[:, :, 1])


def test_slots_that_look_at_one_place_are_joined_without_a_label():
    masks = torch.full((1, 5, 16), 0.05)
    masks[0, 4, 5:8] = 0.9
    masks[0, 0, :4], masks[0, 1, :5] = 0.5, 0.4  # four of five positions shared: IoU 0.8
    masks[0, 2, 8:12], masks[0, 3, 12:] = 0.9, 0.9
    masks = masks / masks.sum(1, keepdim=True)
    joined = merge_overlapping(masks)
    assert torch.equal(joined[0, 0], masks[0, 0] + masks[0, 1]) and not joined[0, 1].any()
    assert torch.equal(joined[0, 2:], masks[0, 2:])
    assert torch.equal(merge_overlapping(masks, 0.81), masks)
    # Of a video, the IoU is averaged over its frames: 0.8 and 0 are not enough.
    apart = masks[:, [0, 3, 2, 1, 4]]
    film = torch.stack([masks, apart], dim=1)
    assert torch.equal(merge_overlapping(film), film)
    both = torch.stack([masks, masks], dim=1)
    assert torch.equal(merge_overlapping(both)[:, 0], joined)


def test_guided_masks_take_the_pictures_edge():
    """A bright square on black; the mask knows it only to the nearest 8 px. After the filter it fits to the pixel."""
    picture = torch.zeros(1, 3, 64, 64)
    picture[:, :, 20:44, 20:44] = 1.0
    truth = picture[0, 0] > 0.5
    coarse = torch.zeros(1, 2, 8, 8)
    coarse[:, 1, 2:6, 2:6] = 1  # 16 to 48
    coarse[:, 0] = 1 - coarse[:, 1]

    def iou(masks):
        found = masks[0].argmax(0) == 1
        return float((found & truth).sum() / (found | truth).sum())

    before = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
    after = guided(coarse, picture)
    assert after.shape == (1, 2, 64, 64)
    torch.testing.assert_close(after.sum(1), torch.ones(1, 64, 64))
    assert after.min() >= 0 and iou(before) < 0.75 and iou(after) > 0.97


def test_guided_masks_of_one_picture_do_not_see_another():
    pictures = torch.rand(2, 3, 32, 32)
    both = guided(MASKS, pictures)
    torch.testing.assert_close(both[1:], guided(MASKS[1:], pictures[1:]))


def test_hard_masks():
    hard = harden(MASKS)
    assert set(hard.unique().tolist()) == {0.0, 1.0} and torch.equal(hard.argmax(1), MASKS.argmax(1))
