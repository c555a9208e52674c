"""Decoders to tokens: mixtures, symmetries, and what each may see."""

import math

import pytest
import torch

from lib.models.dinosaur import DECODERS, Dinosaur
from lib.models.token_decoders import ConvDecoder, MLPDecoder, TransformerDecoder, positions_of

TOKENS = torch.randn(2, 36, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1


def small(**settings):
    torch.manual_seed(0)
    return Dinosaur(5, TOKENS.mean((0, 1)), TOKENS.std((0, 1)), num_slots=3, slot_dim=8, hidden_dim=16, **settings)


@pytest.mark.parametrize("frames", [True, False])
def test_the_mlp_decoder_sees_each_position_alone(frames):
    model = small(frames=frames)
    slots, _, place = model.group(model.encode(TOKENS))
    whole = model.decode(slots, TOKENS, place)
    chosen = torch.tensor([[3, 17, 35], [0, 1, 2]])
    some = model.decode(slots, TOKENS, place, positions_of((6, 6))[chosen])
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
    first = model.decode(slots, TOKENS)
    second = model.decode(slots[:, order], TOKENS)
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


def test_the_originals_masks_cannot_be_certain():
    """Logits clamped to ±10 after the temperature: e^-20 is the least odds a mask can have."""
    decoder = ConvDecoder(8, 5)
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(100)
    masks = decoder(torch.randn(2, 3, 8) * 100, (6, 6)).masks
    assert masks.min() >= math.exp(-20) / 3 * 0.99


def test_gradients():
    torch.manual_seed(0)
    decoder = MLPDecoder(4, 3, hidden_dim=6, frames=True).double()
    frames = torch.tensor([[[0.1, 0.2, 0.5], [-0.3, 0.0, 0.2]]], dtype=torch.float64).requires_grad_()
    slots = torch.randn(1, 2, 4, dtype=torch.float64).requires_grad_()
    positions = positions_of((2, 2)).double()[None]
    assert torch.autograd.gradcheck(
        lambda s, f: decoder(s, (2, 2), 1.0, f, positions)[0], (slots, frames), eps=1e-5, atol=1e-3
    )
