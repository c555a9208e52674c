"""What is taken from an object, and what it shows: known by construction."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.studies.backbones import reflections


def cut(seed, n=3, k=4, side=12, count=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, k, side, side, generator=generator), torch.randint(
        0, count, (n, side, side), generator=generator
    )


def mirrored():
    """Object 1 is red with a blue stripe, object 2 is blue; slots follow the colour, or the objects."""
    truth = torch.zeros(1, 12, 12, dtype=torch.long)
    truth[0, 2:8, 1:6], truth[0, 2:8, 6:10] = 1, 2
    picture = torch.full((1, 3, 12, 12), 0.5)
    picture[:, :, truth[0] == 1] = torch.tensor([0.8, 0.0, 0.0])[:, None]
    picture[:, :, truth[0] == 2] = torch.tensor([0.0, 0.0, 0.8])[:, None]
    picture[0, :, 2:8, 5] = torch.tensor([0.0, 0.0, 0.9])[:, None]  # a fifth of object 1, its brightest
    picture[0, :, 2:8, 5] += 0.05
    follows = truth.clone()
    follows[0, 2:8, 5] = 2
    one_hot = lambda x: torch.nn.functional.one_hot(x, 3).movedim(-1, 1).float()  # noqa: E731
    return one_hot(truth), one_hot(follows), truth, picture


def test_a_slot_that_follows_a_reflection_is_found():
    right, follows, truth, picture = mirrored()
    good = reflections.reflections(right, truth, picture).set_index("id")
    assert (good.own == 1).all() and (good[["theft", "ground", "mirror"]] == 0).all().all()
    assert good.lured[1] == 0 and np.isnan(good.lured[2])
    bad = reflections.reflections(follows, truth, picture).set_index("id")
    assert bad.loc[1, ["own", "theft", "mirror"]].tolist() == pytest.approx([0.8, 0.2, 0.2])
    assert bad.lured[1] == 1 and bad.own[2] == 1 and bad.mirror[2] == 0
    assert (bad.entropy == 0).all()


def test_what_is_taken_without_looking_alike_is_no_reflection():
    _, follows, truth, picture = mirrored()
    picture[0, :, 2:8, 5] = picture[0, :, 2:8, 4]
    found = reflections.reflections(follows, truth, picture).set_index("id")
    assert found.theft[1] == pytest.approx(0.2) and found.mirror[1] == 0


def test_a_swallowed_object_is_not_mirrored():
    _, _, truth, picture = mirrored()
    everything = torch.zeros(1, 3, 12, 12)
    everything[:, 0] = 1
    found = reflections.reflections(everything, truth, picture)
    assert (found.ground == 1).all() and (found.mirror == 0).all() and found.lured.isna().all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_shares_are_shares(seed):
    masks, truth = cut(seed)
    found = reflections.reflections(masks.softmax(1), truth, torch.rand(3, 3, 12, 12))
    np.testing.assert_allclose(found.own + found.theft + found.ground, 1)
    assert found[["mirror", "entropy", "entropy_bright"]].stack().between(0, 1 + 1e-9).all()
    assert (found.mirror <= found.theft + found.ground + 1e-9).all()
    uniform = reflections.reflections(torch.full((3, 4, 12, 12), 0.25), truth, torch.rand(3, 3, 12, 12))
    np.testing.assert_allclose(uniform.entropy, 1)
