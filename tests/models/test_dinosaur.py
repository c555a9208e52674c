"""DINOSAUR's parts: shapes, mixtures, symmetries, and the original's configuration."""

import math

import numpy as np
import pytest
import torch

from lib.models.dinosaur import DECODERS, NORMS, ORIGINAL, Dinosaur, normalise, on_image
from lib.models.pixel_autoencoder import Patches
from lib.models.token_decoders import ConvDecoder, MLPDecoder, TransformerDecoder, positions_of

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


@pytest.mark.parametrize("frames", [True, False])
def test_the_mlp_decoder_sees_each_position_alone(frames):
    model = small(frames=frames)
    slots, _, place = model.group(model.encode(TOKENS))
    whole = model.decode(slots, (6, 6), place)
    chosen = torch.tensor([[3, 17, 35], [0, 1, 2]])
    some = model.decode(slots, (6, 6), place, positions=positions_of((6, 6))[chosen])
    index = chosen[..., None].expand(-1, -1, 5)
    torch.testing.assert_close(some.reconstruction, whole.reconstruction.gather(1, index))


def test_positions_are_centres_of_cells_column_first():
    torch.testing.assert_close(positions_of((1, 2)), torch.tensor([[-0.5, 0.0], [0.5, 0.0]]))
    fine = positions_of((4, 4)).view(4, 4, 2)
    torch.testing.assert_close(
        positions_of((2, 2)).view(2, 2, 2), fine.unflatten(0, (2, 2)).unflatten(2, (2, 2)).mean((1, 3))
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_slots_are_exchangeable_in_every_decoder(decoder):
    model = small(decoder=decoder, frames=False).eval()
    slots = torch.randn(2, 3, 8)
    order = torch.tensor([2, 0, 1])
    first = model.decode(slots, (6, 6), target=TOKENS)
    second = model.decode(slots[:, order], (6, 6), target=TOKENS)
    torch.testing.assert_close(first.reconstruction, second.reconstruction, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.masks[:, order], second.masks, atol=1e-5, rtol=1e-4)


def test_a_transformer_decoder_sees_no_token_before_its_turn():
    torch.manual_seed(0)
    decoder = TransformerDecoder(8, 5).eval()
    slots, changed = torch.randn(2, 3, 8), TOKENS.clone()
    changed[:, 20] += 1
    first, second = decoder(slots, (6, 6), target=TOKENS), decoder(slots, (6, 6), target=changed)
    torch.testing.assert_close(first.reconstruction[:, :21], second.reconstruction[:, :21])
    assert not torch.allclose(first.reconstruction[:, 21:], second.reconstruction[:, 21:])
    with pytest.raises(ValueError, match="give target"):
        decoder(slots, (6, 6))


def test_permuted_walks_visit_every_cell_once_and_only_in_training():
    decoder = TransformerDecoder(8, 5, order="permuted")
    walks = {tuple(decoder._walk((3, 3)).tolist()) for _ in range(200)}
    assert len(walks) == 8 and all(sorted(w) == list(range(9)) for w in walks)
    assert decoder.eval()._walk((3, 3)).tolist() == list(range(9))


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


def test_the_originals_masks_cannot_be_certain():
    """Logits clamped to ±10 after the temperature: e^-20 is the least odds a mask can have."""
    decoder = ConvDecoder(8, 5)
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(100)
    masks = decoder(torch.randn(2, 3, 8) * 100, (6, 6)).masks
    assert masks.min() >= math.exp(-20) / 3 * 0.99


def test_masks_on_the_image_still_sum_to_one():
    masks = torch.rand(2, 3, 36).softmax(1)
    large = on_image(masks, (24, 30))
    assert large.shape == (2, 3, 24, 30)
    torch.testing.assert_close(large.sum(1), torch.ones(2, 24, 30))


def test_tokens_and_frames_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="15 tokens make no square grid"):
        on_image(torch.zeros(1, 2, 15), (24, 24))
    with pytest.raises(ValueError, match="frames of 32 x 64 px"):
        Patches(np.zeros((1, 2, 32, 64, 3), np.uint8))


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


def test_gradients():
    torch.manual_seed(0)
    decoder = MLPDecoder(4, 3, hidden_dim=6, frames=True).double()
    frames = torch.tensor([[[0.1, 0.2, 0.5], [-0.3, 0.0, 0.2]]], dtype=torch.float64).requires_grad_()
    slots = torch.randn(1, 2, 4, dtype=torch.float64).requires_grad_()
    positions = positions_of((2, 2)).double()[None]
    assert torch.autograd.gradcheck(
        lambda s, f: decoder(s, (2, 2), f, positions)[0], (slots, frames), eps=1e-5, atol=1e-3
    )
