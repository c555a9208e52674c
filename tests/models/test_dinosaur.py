"""DINOSAUR's parts: shapes, mixtures, symmetries, and the original's configuration."""

import pytest
import torch

from lib.models.dinosaur import DECODERS, NORMS, ORIGINAL, Dinosaur, normalise, on_image
from lib.models.token_decoders import ConvDecoder

TOKENS = torch.randn(2, 36, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1


def small(**rules):
    torch.manual_seed(0)
    rules = {"num_slots": 3, "slot_dim": 8, "hidden_dim": 16} | rules
    return Dinosaur(5, TOKENS.mean((0, 1)), TOKENS.std((0, 1)), **rules)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_predicts_every_token_and_masks_that_sum_to_one(decoder):
    model = small(decoder=decoder, frames=decoder == "mlp")
    found = model(TOKENS)
    assert found.reconstruction.shape == TOKENS.shape
    assert found.masks.shape == found.attention.shape == (2, 3, 36)
    torch.testing.assert_close(found.masks.sum(1), torch.ones(2, 36))
    found.reconstruction.square().mean().backward()
    grads = [p.grad for p in model.attention.parameters() if p.requires_grad and p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


def test_without_position_or_frames_the_model_cannot_tell_places_apart():
    model = small(position=False, frames=False)
    order = torch.randperm(36)
    slots = torch.randn(2, 3, 8)
    here = model.group(model.encode(TOKENS), slots)
    there = model.group(model.encode(TOKENS[:, order]), slots)
    torch.testing.assert_close(here.slots, there.slots, atol=1e-5, rtol=1e-4)
    placed = small(frames=False)
    here, there = placed.group(placed.encode(TOKENS), slots), placed.group(placed.encode(TOKENS[:, order]), slots)
    assert not torch.allclose(here.slots, there.slots, atol=1e-3)


def test_normalisations():
    mean, std = TOKENS.mean((0, 1)), TOKENS.std((0, 1))
    dataset = normalise(TOKENS, "dataset", mean, std)
    torch.testing.assert_close(dataset.std((0, 1)), torch.ones(5))
    token = normalise(TOKENS, "token", mean, std)
    torch.testing.assert_close(token.mean(-1), torch.zeros(2, 36), atol=1e-5, rtol=0)
    image = normalise(TOKENS, "image", mean, std)
    torch.testing.assert_close(image.mean(1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    scale = normalise(TOKENS, "scale", mean, std)
    assert scale.mean().item() == pytest.approx(0, abs=1e-5) and scale.std().item() == pytest.approx(1, rel=0.01)
    # one number for all: the channels keep their proportions
    ratio = (scale - scale.mean((0, 1))) / (TOKENS - mean)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), atol=1e-4, rtol=1e-3)
    assert normalise(TOKENS, "none", mean, std) is TOKENS
    with pytest.raises(ValueError, match=", ".join(NORMS)):
        normalise(TOKENS, "layer", mean, std)


def test_the_target_takes_no_gradient_and_the_same_settings_serve_every_scale():
    model, larger = small(), None
    tokens = TOKENS.clone().requires_grad_()
    assert not model.target(tokens).requires_grad
    torch.manual_seed(0)
    larger = Dinosaur(5, 100 * TOKENS.mean((0, 1)), 100 * TOKENS.std((0, 1)), num_slots=3, slot_dim=8, hidden_dim=16)
    torch.manual_seed(1)
    first = model(TOKENS)
    torch.manual_seed(1)
    second = larger(100 * TOKENS)
    torch.testing.assert_close(first.reconstruction, second.reconstruction, atol=1e-4, rtol=1e-3)


def test_the_originals_configuration_is_what_its_code_was():
    model = Dinosaur(384, **ORIGINAL)
    widths = [(m.in_features, m.out_features) for m in model.projection if isinstance(m, torch.nn.Linear)]
    assert widths == [(384, 384), (384, 64)] and model.position is None
    assert isinstance(model.decoder, ConvDecoder)
    convolutions = [m for m in model.decoder.layers if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in convolutions] == [
        (386, 384, 5),
        (384, 384, 5),
        (384, 385, 3),
    ]
    assert model.attention.iterations == 5 and model.attention.num_slots == 5
    assert model.attention.init_mean.shape == (1, 5, 64) and model.attention.init_log_sigma.shape == (1, 1, 64)
    first = Dinosaur(384, **ORIGINAL | {"projection": "linear", "decoder": "conv_linear", "init": "uniform"})
    assert isinstance(first.projection, torch.nn.Linear) and first.attention.init_mean.abs().max() <= 0.1


def test_masks_on_the_image_still_sum_to_one():
    masks = torch.rand(2, 3, 36).softmax(1)
    large = on_image(masks, (24, 30))
    assert large.shape == (2, 3, 24, 30)
    torch.testing.assert_close(large.sum(1), torch.ones(2, 24, 30))


def test_masks_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="15 tokens make no square grid"):
        on_image(torch.zeros(1, 2, 15), (24, 24))


@pytest.mark.parametrize(
    "rules",
    [{"decoder": "cnn"}, {"projection": "two"}, {"target_norm": "instance"}, {"frames": True, "decoder": "conv"}],
)
def test_unknown_settings_are_refused(rules):
    with pytest.raises(ValueError, match="choose"):
        small(**rules)


def test_tokens_that_make_no_square_are_refused():
    with pytest.raises(ValueError, match="35 tokens make no square"):
        small()(TOKENS[:, :35])
