"""The autoencoder's shapes, its masks and its temperature schedule."""

import pytest
import torch

from lib.models.pixel_autoencoder import Autoencoder, SpatialBroadcastDecoder


@pytest.mark.parametrize(("size", "stride"), [(32, 1), (64, 2), (56, 4), (96, 4)])
def test_shapes_and_mixing(size, stride):
    torch.manual_seed(0)
    images = torch.rand(2, 3, size, size)
    out = Autoencoder(size, num_slots=4, stride=stride)(images)
    assert out.reconstruction.shape == images.shape
    assert out.masks.shape == (2, 4, size, size) and out.images.shape == (2, 4, 3, size, size)
    assert out.attention.shape == (2, 4, size // stride, size // stride) and out.slots.shape == (2, 4, 32)
    torch.testing.assert_close(out.masks.sum(1), torch.ones(2, size, size))
    torch.testing.assert_close((out.masks[:, :, None] * out.images).sum(1), out.reconstruction)


def test_a_layer_lies_behind_all_slots():
    torch.manual_seed(0)
    model, images = Autoencoder(32, num_slots=3, layer=True), torch.rand(2, 3, 32, 32)
    out = model(images)
    assert out.masks.shape == (2, 4, 32, 32) and out.slots.shape == (2, 3, 32) and out.attention.shape[1] == 3
    assert (out.images[:, 3] == out.images[:, 3, :, :1, :1]).all(), "one colour an image"
    torch.testing.assert_close((out.masks[:, :, None] * out.images).sum(1), out.reconstruction)
    shares = []
    for logit in (-10.0, 3.0, 30.0):
        model.presence.fill_(logit)
        shares.append(model(images).masks[:, 3].mean().item())
    assert shares[0] < 0.01 < shares[1] < 0.99 < shares[2]
    assert "presence" in model.state_dict() and "presence" not in Autoencoder(32).state_dict()


def test_permuting_the_initial_slots_permutes_the_masks():
    torch.manual_seed(0)
    model, images, start = Autoencoder(32), torch.rand(2, 3, 32, 32), torch.randn(2, 5, 32)
    order = torch.tensor([4, 2, 0, 1, 3])
    first, second = model(images, slots=start), model(images, slots=start[:, order])
    torch.testing.assert_close(second.masks, first.masks[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second.reconstruction, first.reconstruction, atol=1e-5, rtol=1e-4)


def test_a_cold_mask_is_nearly_one_hot():
    torch.manual_seed(0)
    decoder, slots = SpatialBroadcastDecoder(32, 32), torch.randn(1, 5, 32) * 5
    warm, cold = decoder(slots, 1.0).masks, decoder(slots, 1e-4).masks
    assert cold.amax(1).mean() > 0.95 > warm.amax(1).mean()
    assert torch.equal(cold.argmax(1), warm.argmax(1)), "temperature decides how sure, never who"


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = Autoencoder(32)
    images = torch.rand(2, 3, 32, 32)
    (model(images).reconstruction - images).pow(2).mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_a_size_that_doubling_does_not_reach_is_an_error():
    with pytest.raises(ValueError, match="48 px"):
        SpatialBroadcastDecoder(32, 48, 8)
