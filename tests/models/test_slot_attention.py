"""Slot Attention does what algorithm 1 says, and its symmetries are exact."""

import numpy as np
import pytest
import torch

from lib.models.slot_attention import SlotAttention, in_frame, measure_frames


@pytest.fixture
def module():
    torch.manual_seed(0)
    return SlotAttention(input_dim=6, slot_dim=8, num_slots=4, iterations=3, hidden_dim=16).double()


@pytest.fixture
def inputs():
    return torch.randn(2, 10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def start():
    return torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_shapes_and_competition(module, inputs):
    slots, attention, _ = module(inputs)
    assert slots.shape == (2, 4, 8) and attention.shape == (2, 4, 10)
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 10, dtype=torch.float64))


def test_permuting_inputs_permutes_only_the_attention(module, inputs, start):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    slots, attention, _ = module(inputs, start)
    permuted_slots, permuted_attention, _ = module(inputs[:, order], start)
    torch.testing.assert_close(permuted_slots, slots)
    torch.testing.assert_close(permuted_attention, attention[:, :, order])


def test_permuting_initial_slots_permutes_the_slots(module, inputs, start):
    order = torch.tensor([2, 0, 3, 1])
    slots, attention, _ = module(inputs, start)
    permuted_slots, permuted_attention, _ = module(inputs, start[:, order])
    torch.testing.assert_close(permuted_slots, slots[:, order])
    torch.testing.assert_close(permuted_attention, attention[:, order])


def test_images_of_a_batch_do_not_see_each_other(module, inputs, start):
    changed = inputs.clone()
    changed[1] += 1
    slots = module(inputs, start).slots
    changed_slots = module(changed, start).slots
    assert torch.equal(slots[0], changed_slots[0]) and not torch.equal(slots[1], changed_slots[1])


def test_slots_keep_their_precision_under_autocast(inputs):
    torch.manual_seed(0)
    single = SlotAttention(input_dim=6, slot_dim=8, num_slots=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert single(inputs.float()).slots.dtype == torch.float32


def test_gradients(module, inputs, start):
    module.iterations = 2
    check = (inputs[:1, :4].requires_grad_(), start[:1].requires_grad_())
    assert torch.autograd.gradcheck(lambda x, s: tuple(module(x, s, temperature=0.7)[:2]), check)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_agrees_with_the_published_algorithm_in_numpy(module, inputs, start, temperature):
    """Algorithm 1 of the paper written out once more, in numpy and without looking at the module's forward."""
    weight = {name: value.detach().numpy() for name, value in module.named_parameters()}

    def layer_norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight[name + ".weight"] + weight[name + ".bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def gru(x, h):
        gates_x = x @ weight["gru.weight_ih"].T + weight["gru.bias_ih"]
        gates_h = h @ weight["gru.weight_hh"].T + weight["gru.bias_hh"]
        (rx, zx, nx), (rh, zh, nh) = np.split(gates_x, 3, -1), np.split(gates_h, 3, -1)
        r, z = sigmoid(rx + rh), sigmoid(zx + zh)
        return (1 - z) * np.tanh(nx + r * nh) + z * h

    x, slots = layer_norm(inputs.numpy(), "norm_inputs"), start.numpy()
    k, v = x @ weight["to_k.weight"].T, x @ weight["to_v.weight"].T
    for _ in range(3):
        q = layer_norm(slots, "norm_slots") @ weight["to_q.weight"].T
        logits = k @ q.transpose(0, 2, 1) / np.sqrt(8) / temperature  # [B, N, K]
        attention = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        mean = attention + 1e-8
        mean = mean / mean.sum(1, keepdims=True)
        slots = gru(mean.transpose(0, 2, 1) @ v, slots)
        hidden = np.maximum(layer_norm(slots, "mlp.0") @ weight["mlp.1.weight"].T + weight["mlp.1.bias"], 0)
        slots = slots + hidden @ weight["mlp.3.weight"].T + weight["mlp.3.bias"]
    ours, ours_attention, _ = module(inputs, start, temperature=temperature)
    np.testing.assert_allclose(ours.detach().numpy(), slots, atol=1e-10)
    np.testing.assert_allclose(ours_attention.detach().numpy(), attention.transpose(0, 2, 1), atol=1e-10)


def test_a_lower_temperature_competes_harder(module, inputs, start):
    def entropy(temperature):
        attention = module(inputs, start, temperature=temperature, iterations=1).attention
        return torch.special.entr(attention).sum(1).mean()

    assert entropy(0.1) < entropy(1.0) < entropy(10.0)


def test_gaussian_slots_are_drawn_and_learned_slots_are_not():
    torch.manual_seed(0)
    gaussian, learned = SlotAttention(6, 8, 4), SlotAttention(6, 8, 4, init="learned")
    assert not torch.equal(gaussian.initial_slots(2), gaussian.initial_slots(2))
    assert torch.equal(learned.initial_slots(2), learned.initial_slots(2))
    start = learned.initial_slots(1)[0]
    assert torch.unique(start, dim=0).shape == start.shape, "learned slots must differ from each other"


def test_wrong_settings_are_errors(inputs):
    with pytest.raises(ValueError, match="gaussian, learned"):
        SlotAttention(6, init="gausian")
    with pytest.raises(ValueError, match="positive"):
        SlotAttention(6, 8).double()(inputs, temperature=0.0)


@pytest.fixture
def framed():
    torch.manual_seed(0)
    module = SlotAttention(6, 8, 4, hidden_dim=16, frames=True).double()
    torch.nn.init.normal_(module.to_place.weight)  # it starts at zero, where place would not matter
    return module


PLACES = torch.rand(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_frames_are_centre_and_width_of_the_attention():
    weights = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    places = torch.tensor([[-0.5, 0.2], [0.5, 0.2], [0.9, -0.9]], dtype=torch.float64)
    frames = measure_frames(weights, places)
    torch.testing.assert_close(frames[0, :, :2], torch.tensor([[0.0, 0.2], [0.9, -0.9]], dtype=torch.float64))
    assert frames[0, 0, 2] == pytest.approx((0.25 / 2 + 1e-4) ** 0.5)
    assert frames[0, 1, 2] == 0.05  # a slot on a single input keeps a width
    seen = in_frame(places, frames)
    assert seen.shape == (1, 2, 3, 2)
    torch.testing.assert_close(seen[0, 0, 1] * frames[0, 0, 2], torch.tensor([0.5, 0.0], dtype=torch.float64))


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_frames_and_what_place_adds_are_those_of_offsets(framed, dtype, exact):
    """Their definition, with the offset of every input from every slot: what is computed by powers is the same.

    Rows of older code are known by that, see `lib.provenance.SAME`.
    """
    maker = torch.Generator().manual_seed(7)
    net, places = framed.to(dtype), (torch.rand(400, 2, generator=maker, dtype=torch.float64) * 2 - 1).to(dtype)
    near = -(places[:, None] - places[:40:10]).square().sum(-1).T  # four slots around four inputs, narrow to wide
    weights = (near / torch.tensor([1e-4, 1e-2, 0.3, 9.0], dtype=dtype)[:, None]).softmax(-1)[None]
    slots = torch.randn(1, 4, 8, generator=maker, dtype=torch.float64).to(dtype)
    centre = weights @ places
    offset = places - centre[:, :, None]
    width = ((weights[..., None] * offset.square()).sum((-2, -1))[..., None] / 2 + 1e-4).sqrt()
    frames = torch.cat([centre, width.clamp(0.05, 1.0)], -1)
    torch.testing.assert_close(measure_frames(3 * weights, places), frames, rtol=0, atol=exact)
    terms, offset = net.to_place(slots), in_frame(places, frames)
    slope = (terms[:, :, None, :2] * offset).sum(-1)
    pull = 0.1 * torch.nn.functional.softplus(terms[..., 2:]) * offset.square().sum(-1).clamp(max=25)
    torch.testing.assert_close(net._nearness(slots, places, frames), slope - pull, rtol=exact, atol=exact)
    assert (offset.square().sum(-1) > 25).any() and frames[..., 2].min() == pytest.approx(0.05)


def test_frames_are_as_exact_under_autocast(framed, inputs, start):
    weights = torch.rand(2, 4, 10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    frames, normed = measure_frames(weights, PLACES.float()), start.float()
    near = framed.float()._nearness
    exact = near(normed, PLACES.float(), frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(measure_frames(weights, PLACES.float()), frames)
        # `to_place` is a layer and runs in bfloat16; what place adds is then read from it exactly.
        terms = framed.to_place(normed).float()
        framed.to_place.forward = lambda _: terms
        assert near(normed, PLACES.float(), frames).dtype == torch.float32
        half = near(normed, PLACES.float(), frames)
    assert torch.equal(half, near(normed, PLACES.float(), frames)) and torch.allclose(half, exact, atol=0.1)


def test_slots_with_frames_do_not_know_where_the_picture_lies(framed, inputs, start):
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    here = framed(inputs, start, positions=PLACES)
    there = framed(inputs, start, positions=PLACES + shift)
    torch.testing.assert_close(here.attention, there.attention)
    torch.testing.assert_close(here.frames[..., :2] + shift, there.frames[..., :2])
    elsewhere = framed(inputs, start, positions=PLACES.flip(0))
    assert not torch.allclose(here.attention, elsewhere.attention)


def test_frames_handed_over_are_used_from_the_first_iteration(framed, inputs, start):
    frames = torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64).expand(len(inputs), 4, 3)
    free = framed(inputs, start, iterations=1, positions=PLACES)
    held = framed(inputs, start, iterations=1, positions=PLACES, frames=frames)
    assert not torch.allclose(free.attention, held.attention)


def test_gradients_with_frames(framed, inputs, start):
    framed.iterations = 2
    check = (inputs[:1, :4].requires_grad_(), start[:1].requires_grad_())
    assert torch.autograd.gradcheck(lambda x, s: tuple(framed(x, s, positions=PLACES[:4])), check)


def test_frames_need_positions(framed, inputs):
    with pytest.raises(ValueError, match="need the positions"):
        framed(inputs)
