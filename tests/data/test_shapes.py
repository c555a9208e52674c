"""Shapes are exact, seeded and never surprise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import DataError
from lib.data.shapes import COLOURS, Shapes, _inside


@given(seed=st.integers(0, 1000), low=st.integers(0, 3), more=st.integers(0, 2), size=st.sampled_from([32, 48, 64]))
@settings(max_examples=25, deadline=None)
def test_masks_are_exact(seed, low, more, size):
    made = Shapes(3, size=size, count=(low, low + more), radius=(0.1, 0.15), seed=seed)
    for picture, mask in made:
        assert picture.shape == (3, size, size) and picture.dtype == torch.float32
        ids = mask.unique().tolist()
        assert ids == list(range(len(ids))) and low <= len(ids) - 1 <= low + more, "every shape is visible"
        assert (picture[:, mask == 0] == 0).all(), "background where the mask says so"
        for i in ids[1:]:
            colour = picture[:, mask == i].T.unique(dim=0)
            assert len(colour) == 1, "one flat colour under one id"
            assert min(np.abs(colour[0].numpy() - c).max() for c in COLOURS.values()) < 1e-6


def test_picture_i_depends_on_the_seed_and_i_alone():
    few, many, other = Shapes(3, seed=1), Shapes(50, seed=1), Shapes(3, seed=2)
    assert all(torch.equal(few[i][0], many[i][0]) for i in range(3))
    assert not any(torch.equal(few[i][0], other[i][0]) for i in range(3))
    pictures, masks = few.tensors
    assert torch.equal(pictures[2], few[2][0]) and torch.equal(masks[2], few[2][1])


@pytest.mark.parametrize(("kind", "share"), [("circle", np.pi), ("square", 2.0), ("triangle", 3 * np.sqrt(3) / 4)])
def test_areas_are_those_of_geometry(kind, share):
    """A circle has pi r², a square 2 r² and a triangle 3√3/4 r² of its circumscribed radius r."""
    radius = 51.2
    for angle in np.linspace(0, 2, 8):
        area = _inside(kind, 256, np.array([120.3, 128.8]), radius, angle).sum()
        np.testing.assert_allclose(area, share * radius**2, rtol=0.02)


@pytest.mark.parametrize("gap", [0, 1])
def test_no_shape_covers_another(gap):
    masks = Shapes(20, count=(4, 4), radius=(0.14, 0.14), gap=gap, seed=3).tensors[1]
    smallest = min(int((m == i).sum()) for m in masks for i in range(1, 5))
    assert smallest > 0.95 * 3 * np.sqrt(3) / 4 * (0.14 * 64) ** 2


def test_shapes_keep_their_distance():
    for _, mask in Shapes(20, size=32, count=(3, 3), radius=(0.12, 0.16), gap=2, seed=4):
        for i in (1, 2, 3):
            at, others = (mask == i).nonzero().float(), ((mask > 0) & (mask != i)).nonzero().float()
            assert torch.cdist(at, others, p=1).min() > 2


def test_distinct_colours():
    for picture, mask in Shapes(20, count=(4, 4), radius=(0.1, 0.12), distinct=True):
        colours = {tuple(picture[:, mask == i][:, 0].tolist()) for i in range(1, 5)}
        assert len(colours) == 4


def test_a_coloured_background_has_one_colour_that_no_shape_has():
    black, coloured = Shapes(20, seed=5), Shapes(20, seed=5, background="coloured")
    for (dark, ids), (bright, again) in zip(black, coloured, strict=True):
        assert torch.equal(ids, again) and torch.equal(dark[:, ids > 0], bright[:, ids > 0]), "the same shapes"
        (colour,) = bright[:, ids == 0].T.unique(dim=0)
        assert min(np.linalg.norm(colour - torch.tensor(c)) for c in COLOURS.values()) > 0.3
    assert black.fingerprint != coloured.fingerprint


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"count": (3, 2)}, "count"),
        ({"radius": (0.2, 0.6)}, "radius"),
        ({"gap": -1}, "gap"),
        ({"count": (9, 9), "distinct": True}, "allow fewer"),
        ({"background": "green"}, "background is 'green'"),
    ],
)
def test_impossible_settings_are_errors(setting, message):
    with pytest.raises(DataError, match=message):
        Shapes(1, **setting)


def test_what_does_not_fit_is_an_error_and_no_endless_loop():
    with pytest.raises(DataError, match="do not fit"):
        Shapes(1, size=32, count=(30, 30), radius=(0.3, 0.3))[0]
    with pytest.raises(IndexError):
        Shapes(1)[1]
