"""The controls partition the picture, and by what they say."""

import torch

from lib.data.shapes import Shapes
from lib.metrics import controls, objects


def test_blocks_are_a_grid():
    masks = controls.blocks(2, 32, 4)
    assert masks.shape == (2, 16, 32, 32) and (masks.sum(1) == 1).all() and (masks.sum((2, 3)) == 64).all()
    labels = masks[0].argmax(0)
    assert (labels[:8, :8] == 0).all() and (labels[:8, 8:16] == 1).all() and (labels[8:16, :8] == 4).all()


def test_blocks_share_out_the_pixels_of_a_size_that_does_not_divide():
    areas = controls.blocks(1, 32, 3).sum((2, 3))
    assert areas.sum() == 32 * 32 and areas.min() >= 100 and areas.max() <= 121


def test_kmeans_finds_flat_colours():
    pictures, truth = Shapes(6, size=32, count=(3, 3), radius=(0.12, 0.16), distinct=True, seed=5).tensors
    found = objects.evaluate(truth, controls.kmeans_rgb(pictures, 4))
    assert (found["ari"] > 0.999).all() and (found["miou"] > 0.999).all()


def test_kmeans_with_fewer_colours_than_clusters():
    masks = controls.kmeans_rgb(torch.zeros(1, 3, 8, 8), 5)
    assert masks.shape == (1, 5, 8, 8) and (masks.sum((2, 3)) > 0).sum() == 1
