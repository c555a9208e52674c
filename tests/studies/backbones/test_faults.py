"""Faults do what they say and nothing else."""

import pytest
import torch

from lib.studies.backbones import experiment
from lib.studies.backbones.faults import Projected
from lib.studies.objects import experiment as objects_experiment
from lib.studies.objects.experiment import ImageConfig
from lib.studies.objects.final import ObjectStudy


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def tokens(name, images):
    return experiment.BackboneStudy(ObjectStudy(device="cpu"), {}).tokens(name, images)


def changed(name, pictures):
    """Which tokens of both images change when a patch of the first is edited."""
    edited = pictures.clone()
    edited[0, :, 64:72, 64:72] = 1 - edited[0, :, 64:72, 64:72]
    return (tokens(name, edited) - tokens(name, pictures)).abs().amax(-1) > 1e-5


def test_attention_across_the_batch_hears_the_neighbour_and_not_the_image(pictures):
    right, wrong = (changed(n, pictures) for n in ("vit8_random", "vit8_random, attention across the batch"))
    assert right[0].all() and not right[1].any()
    place = 8 * 16 + 8
    assert wrong[:, place].all() and wrong.sum() == 2


def test_a_projection_drifts_only_if_it_is_trained(split):
    tokens = split(frames=3, step=4).features.batch(slice(None))
    for trainable in (True, False):
        torch.manual_seed(0)
        net = Projected(4, trainable=trainable)
        assert net.target(tokens).shape[-1] == 2 and not net.target(tokens).requires_grad
        for sample in (0, 16):
            objects_experiment.objective(net, tokens, ImageConfig(sample=sample))[0].backward()
        gradient = net.reduce.weight.grad
        assert (gradient is not None and gradient.abs().sum() > 0) == trainable


def test_the_projection_reads_standardised_tokens(split):
    data = split(frames=3, step=4)
    tokens, net = data.features.batch(slice(None)), Projected(4, trainable=False)
    before = net.target(tokens)
    net.mean.copy_(data.features.mean)
    net.std.copy_(data.features.std)
    assert not torch.allclose(before, net.target(tokens))
