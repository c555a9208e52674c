"""Geometry of the augmentations: what is magnified, what stays aligned, and what no label may become."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from lib.data import augment
from lib.data.streethazards import IGNORE, StreetHazards
from lib.studies.roads import treatments

SCALES = st.floats(0.5, 2.0)


def ramp(height=120, width=160):
    """Channels 0 and 1 hold each pixel's row and column, in 0..1 and never 0; the label is a coarse checkerboard."""
    rows, columns = torch.arange(height).float() + 1, torch.arange(width).float() + 1
    image = torch.stack(
        [rows[:, None].expand(-1, width) / 256, columns.expand(height, -1) / 256, torch.ones(height, width)]
    )
    label = 1 + (torch.arange(height)[:, None] // 20 * 3 + torch.arange(width) // 20) % 7
    return tv_tensors.Image(image), tv_tensors.Mask(label.byte())


def magnification(image):
    """Pixels out per pixel in, in both directions, from the mean slope of the ramps."""
    rows, columns = image[0] * 256, image[1] * 256
    inside = image[2] > 0.999
    down = (rows[1:] - rows[:-1])[inside[1:] & inside[:-1]].mean()
    along = (columns[:, 1:] - columns[:, :-1])[inside[:, 1:] & inside[:, :-1]].mean()
    return 1 / float(down), 1 / float(along)


def expected_labels(image, height=120, width=160):
    """The class that lies where each pixel of the image says it comes from, and how far from a change it is."""
    row, column = image[0] * 256 - 1, image[1] * 256 - 1
    label = 1 + (row.div(20, rounding_mode="floor").long() * 3 + column.div(20, rounding_mode="floor").long()) % 7
    # Pixel i covers i-0.5..i+0.5, so the classes change at 19.5, 39.5, ...
    from_centre = [((place + 0.5) % 20 - 10).abs() for place in (row, column)]
    return label, torch.maximum(*from_centre) < 10 - 1.5  # well inside a square: 1.5 px from its border


@given(SCALES, st.sampled_from([0.5, 1.0]), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_true_crop_magnifies_and_changes_the_field_of_view(scale, base, seed):
    torch.manual_seed(seed)
    image, label = augment.ScaleCrop((48, 64), (scale, scale), base)(*ramp())
    assert image.shape == (3, 48, 64) and label.shape == (48, 64)
    assert magnification(image) == pytest.approx((scale * base, scale * base), rel=0.05)
    seen = image[1][image[2] > 0.999] * 256
    assert float(seen.max() - seen.min()) == pytest.approx(min(64 / (scale * base), 160), rel=0.08)


@given(SCALES, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_degenerate_crop_magnifies_nothing(scale, seed):
    torch.manual_seed(seed)
    image, _ = treatments.DegenerateCrop((48, 64), (scale, scale))(*ramp())
    assert magnification(image) == pytest.approx((1, 1), rel=0.05)
    seen = image[1] * 256
    assert float(seen.max() - seen.min()) == pytest.approx(63, abs=2.5), "the field of view is the crop, whatever s is"


@given(
    st.sampled_from(["true", "degenerate", "none"]),
    st.sampled_from(["joint", "none"]),
    st.sampled_from([0.0, 20.0]),
    st.integers(0, 10_000),
)
@settings(max_examples=80, deadline=None)
def test_image_and_label_stay_aligned(crops, flip, degrees, seed):
    torch.manual_seed(seed)
    transform = treatments.training((48, 64), crops=crops, flip=flip, degrees=degrees, colour=False, blur=False)
    image, label = transform(*ramp())
    expected, sure = expected_labels(image)
    sure &= image[2] > 0.999  # not mixed with what was filled in
    assert sure.sum() > 100
    assert (label[sure].long() == expected[sure]).all()
    outside = image[2] < 1e-4
    assert (label[outside] == IGNORE).float().mean() > 0.97 if outside.any() else True


@given(st.floats(0.3, 1.9))
@settings(max_examples=40, deadline=None)
def test_resizing_shifts_no_label(factor):
    """Both are sampled at the same points; torchvision's "nearest" takes labels from farther up and left."""
    size = (round(120 * factor), round(160 * factor))
    image, label = augment.Resize(size)(*ramp())
    expected, sure = expected_labels(image)
    assert (label[sure].long() == expected[sure]).all()
    columns = tv_tensors.Mask(torch.arange(160, dtype=torch.uint8).expand(120, -1))
    found = augment.Resize(size)(columns)[0].double()
    centres = (torch.arange(size[1]).double() + 0.5) * 160 / size[1] - 0.5
    assert (found - centres).abs().max() < 0.501, "each label is that of the pixel nearest to the centre"


@given(st.sampled_from(treatments.CROPS), st.sampled_from(treatments.FLIPS), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_no_class_is_invented(crops, flip, colour, seed):
    torch.manual_seed(seed)
    image, label = ramp()
    kept = tv_tensors.Mask(torch.where(label > 3, 12, 2).byte())  # 2 and 12: any mixture would show
    moved, ids = treatments.training((48, 64), crops=crops, flip=flip, colour=colour, degrees=20)(image, kept)
    assert set(ids.unique().tolist()) <= {2, 12, IGNORE}
    assert ids.dtype == torch.uint8 and moved.shape == (3, 48, 64)
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6


def test_what_moves_in_is_void_and_never_sky():
    torch.manual_seed(0)
    image, label = ramp()
    label.zero_()
    _, ids = augment.ScaleCrop((120, 160), (0.5, 0.5))(image, label)
    assert (ids == 0).sum() == 60 * 80 and (ids == IGNORE).sum() == 120 * 160 - 60 * 80
    rotate = treatments.training((120, 160), crops="none", flip="none", degrees=20, colour=False)
    assert (rotate(image, label)[1] == IGNORE).any()


def test_the_image_only_flip_leaves_the_label():
    image, label = ramp()
    flipped, same = treatments.ImageOnlyFlip(1.0)(image, label)
    assert torch.equal(flipped, image.flip(-1)) and torch.equal(same, label)
    both = v2.RandomHorizontalFlip(1.0)(image, label)
    assert torch.equal(both[1], label.flip(-1))
    torch.manual_seed(0)
    counts = [treatments.ImageOnlyFlip(0.5)(image, label)[0].equal(image) for _ in range(60)]
    assert 18 <= sum(counts) <= 42


def test_scales_are_drawn_over_the_whole_range():
    torch.manual_seed(0)
    transform = augment.ScaleCrop((48, 64))
    found = [magnification(transform(*ramp())[0])[0] for _ in range(150)]
    assert np.percentile(found, 5) < 0.6 and np.percentile(found, 95) > 1.75
    assert np.median(found) == pytest.approx(1, abs=0.15)


def test_the_same_seed_is_the_same_picture():
    torch.manual_seed(3)
    first = treatments.training((48, 64))(*ramp())
    torch.manual_seed(3)
    second = treatments.training((48, 64))(*ramp())
    third = treatments.training((48, 64))(*ramp())
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], third[0])


def test_with_the_dataset():
    torch.manual_seed(0)
    image, label = StreetHazards(split="train")[0]
    image, label = treatments.training((96, 160), base=0.5)(tv_tensors.Image(image), tv_tensors.Mask(label))
    assert image.shape == (3, 96, 160) and label.shape == (96, 160) and label.dtype == torch.long
    assert set(label.unique().tolist()) <= set(range(13)) | {IGNORE}
    frame, whole = StreetHazards(split="test")[0]
    frame, whole = augment.Resize((180, 320))(tv_tensors.Image(frame), tv_tensors.Mask(whole))
    assert frame.shape == (3, 180, 320) and (whole == 13).any()


def test_a_squashed_frame_is_seen_whole():
    transform = treatments.training((60, 40), crops="squash", flip="none", degrees=0, colour=False, blur=False)
    image, label = transform(*ramp())
    assert magnification(image) == pytest.approx((0.5, 0.25), rel=0.02) and label.shape == (60, 40)


def test_colour_and_blur_are_two_switches():
    still = {"crops": "none", "flip": "none", "degrees": 0}
    image, label = ramp()
    image = tv_tensors.Image(torch.rand(image.shape, generator=torch.Generator().manual_seed(0)))
    for colour, blur in ((False, False), (True, False), (False, True)):
        torch.manual_seed(0)
        transform = treatments.training((120, 160), **still, colour=colour, blur=blur)
        seen = [transform(image, label)[0] for _ in range(8)]
        assert any(not torch.equal(s, image) for s in seen) == (colour or blur)
        sharpness = [float((s[:, :, 1:] - s[:, :, :-1]).abs().mean() / s.std()) for s in seen]
        assert (min(sharpness) < 0.8 * max(sharpness)) == blur


def test_wrong_settings_are_errors():
    with pytest.raises(ValueError, match="degenerate"):
        treatments.training((48, 64), crops="broken")
    with pytest.raises(ValueError, match="image only"):
        treatments.training((48, 64), flip="image")
    with pytest.raises(ValueError, match="rise"):
        augment.ScaleCrop((48, 64), (2.0, 0.5))
    with pytest.raises(ValueError, match="larger than the image"):
        treatments.DegenerateCrop((480, 640))(*ramp())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int64, torch.bool, torch.int8])
@pytest.mark.parametrize(
    "move", [augment.Resize((8, 8)), augment.ScaleCrop((200, 200)), treatments.training((96, 128))]
)
def test_labels_of_every_integer_type_that_can_hold_the_fill(move, dtype):
    image, label = ramp()
    torch.manual_seed(0)
    expected = move(image, label)[1]
    torch.manual_seed(0)
    if dtype in (torch.bool, torch.int8):
        with pytest.raises(ValueError, match=f"labels of {dtype} cannot hold the fill 255"):
            move(image, tv_tensors.Mask(label.to(dtype)))
    else:
        assert torch.equal(move(image, tv_tensors.Mask(label.to(dtype)))[1].long(), expected.long())
