"""The video wrapper: it is the image model where there is one frame, and time runs one way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.models.dinosaur import Dinosaur
from lib.models.slot_attention import Grouping
from lib.models.token_decoders import Decoded, positions_of
from lib.models.video import ORIGINAL, PREDICTORS, VideoModel, slot_contrast

GRID = (3, 3)
B, T, K, D, C, N = 2, 4, 3, 8, 5, 9
TOKENS = torch.randn(B, T, N, C, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """An image model that can be followed by hand: a slot is what it started from, plus rounds, plus the frame."""

    slot_dim, num_slots = D, K

    def encode(self, tokens):
        return tokens

    def target(self, tokens):
        return tokens

    def group(self, inputs, slots=None, iterations=None, frames=None):
        slots = torch.zeros(len(inputs), K, D) if slots is None else slots
        slots = slots + iterations + 1000 * inputs.mean((1, 2))[:, None, None]
        return Grouping(slots, torch.full((len(inputs), K, inputs.shape[1]), 1 / K))

    def decode(self, slots, tokens, frames=None, positions=None):
        cells = tokens.shape[1] if positions is None else positions.shape[1]
        masks = slots.mean(-1, keepdim=True).softmax(1).expand(-1, -1, cells)
        return Decoded(slots.mean((1, 2))[:, None, None].expand(-1, cells, C), masks)


def video_model(frames=True, decoder="mlp", **options):
    torch.manual_seed(0)
    image = Dinosaur(
        C, num_slots=K, slot_dim=D, hidden_dim=16, frames=frames, decoder=decoder, attention_temperature=1.0
    )
    return VideoModel(image, **options)


def follow(model, tokens, **options):
    torch.manual_seed(1)  # of the initial slots
    return model(tokens, **options)


@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_video_of_one_frame_is_an_image(predictor, frames):
    model = video_model(frames, predictor=predictor, stop_gradient=True, output_norm=True)
    found = follow(model, TOKENS[:, :1])
    torch.manual_seed(1)
    expected = model.image_model(TOKENS[:, 0])
    for video, image in zip(found[:4], expected[:4], strict=True):
        assert torch.equal(video[:, 0], image)
    assert torch.equal(model.target(TOKENS)[:, 2], model.image_model.target(TOKENS[:, 2]))


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_shapes_and_masks_that_sum_to_one(predictor):
    found = follow(video_model(predictor=predictor), TOKENS)
    assert found.slots.shape == (B, T, K, D) and found.places.shape == (B, T, K, 3)
    assert found.attention.shape == found.masks.shape == (B, T, K, N) and found.reconstruction.shape == TOKENS.shape
    torch.testing.assert_close(found.masks.sum(2), torch.ones(B, T, N))
    assert follow(video_model(frames=False), TOKENS).places is None


def test_later_frames_start_from_the_frame_before_with_fewer_iterations():
    still = torch.zeros(1, T, N, C)
    slots = VideoModel(Counting(), "none", iterations=(3, 2))(still).slots
    assert slots[0, :, 0, 0].tolist() == [3, 5, 7, 9], "three rounds, then two more a frame"
    slots = VideoModel(Counting(), "none", iterations=(3, 2), refresh=2)(still).slots
    assert slots[0, :, 0, 0].tolist() == [3, 5, 3, 5], "drawn anew at frame 2"


def test_the_corrected_slots_are_decoded_and_the_predicted_ones_passed_on():
    model = VideoModel(Counting(), "mlp")
    nn.init.zeros_(model.predictor.layers[-1].weight)
    nn.init.constant_(model.predictor.layers[-1].bias, 100.0)
    found = model(torch.zeros(1, 2, N, C))
    assert found.slots[0, :, 0, 0].tolist() == [3, 105] and found.reconstruction[0, :, 0, 0].tolist() == [3, 105]


def test_places_are_handed_on_too():
    model = video_model(predictor="none", iterations=(3, 1))
    found = follow(model, TOKENS)
    inputs = model.image_model.encode(TOKENS[:, 1])
    expected = model.image_model.group(inputs, found.slots[:, 0], 1, found.places[:, 0])
    torch.testing.assert_close(found.slots[:, 1], expected.slots)
    forgetful = model.image_model.group(inputs, found.slots[:, 0], 1)
    assert not torch.allclose(forgetful.slots, expected.slots)


@pytest.mark.parametrize("options", [{}, {"predictor": "mlp", "refresh": 2}, {"predictor": "none"}])
def test_no_frame_sees_a_later_one(options):
    model = video_model(**options)
    found = follow(model, TOKENS)
    changed = follow(model, TOKENS[:, [0, 1, 3, 2]])
    for a, b in zip(found, changed, strict=True):
        torch.testing.assert_close(a[:, :2], b[:, :2])
        assert not torch.allclose(a[:, 2], b[:, 2]), "the frames that were exchanged differ"


def test_refreshed_slots_know_nothing_of_what_was():
    other = torch.cat([TOKENS[:, :2] + 1.5 * torch.randn_like(TOKENS[:, :2]), TOKENS[:, 2:]], dim=1)
    fresh, kept = video_model(refresh=2), video_model(refresh=0)
    torch.testing.assert_close(follow(fresh, TOKENS).slots[:, 2:], follow(fresh, other).slots[:, 2:])
    assert not torch.allclose(follow(kept, TOKENS).slots[:, 2:], follow(kept, other).slots[:, 2:])


@pytest.mark.parametrize("predictor", ["transformer", "mlp"])
def test_stop_gradient_keeps_gradients_inside_a_frame(predictor):
    for stop in (False, True):
        model = video_model(predictor=predictor, stop_gradient=stop)
        tokens = TOKENS.clone().requires_grad_()
        follow(model, tokens).slots[:, 2].square().sum().backward()
        reach = tokens.grad.abs().amax((0, 2, 3))
        assert (reach[:2] > 0).tolist() == [not stop] * 2 and reach[2] > 0 and reach[3] == 0
        grads = [p.grad for p in model.predictor.parameters()]
        assert any(g is not None and g.abs().max() > 0 for g in grads), "the predictor itself still learns"


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_slots_are_exchangeable_through_time(predictor):
    model = video_model(predictor=predictor, output_norm=True)
    order = torch.tensor([2, 0, 1])
    slots = torch.randn(B, K, D, generator=torch.Generator().manual_seed(2))
    model.image_model.attention.initial_slots = lambda batch: slots
    first = model(TOKENS)
    model.image_model.attention.initial_slots = lambda batch: slots[:, order]
    second = model(TOKENS)
    torch.testing.assert_close(first.slots[:, :, order], second.slots, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.reconstruction, second.reconstruction, atol=1e-5, rtol=1e-4)


def test_slots_see_each_other_in_the_transformer_alone():
    slots = torch.randn(1, K, D, generator=torch.Generator().manual_seed(3))
    changed = slots.clone()
    changed[:, 1:] = changed[:, 1:].flip(-1)  # LayerNorm would not see a constant added
    for predictor, seen in (("transformer", True), ("mlp", False), ("none", False)):
        predict = video_model(predictor=predictor).predictor
        assert torch.allclose(predict(slots)[:, 0], predict(changed)[:, 0]) is not seen


def test_the_original_predictor_is_a_layer_norm_over_slot_and_change():
    model = video_model(**ORIGINAL)
    slots = torch.randn(1, K, D, generator=torch.Generator().manual_seed(4))
    norm, wide, _, narrow = model.predictor.layers
    expected = nn.functional.layer_norm(slots + narrow(wide(norm(slots)).relu()), (D,))
    torch.testing.assert_close(model._predict(Grouping(slots, slots))[0], expected)


def test_some_positions_can_be_decoded_alone():
    model = video_model()
    whole = follow(model, TOKENS)
    chosen = torch.randint(N, (B, T, 4), generator=torch.Generator().manual_seed(5))
    some = follow(model, TOKENS, positions=positions_of(GRID)[chosen])
    expected = whole.reconstruction.gather(2, chosen[..., None].expand(-1, -1, -1, C))
    torch.testing.assert_close(some.reconstruction, expected, atol=1e-5, rtol=1e-4)


def test_a_transformer_decoder_gets_its_true_tokens():
    found = follow(video_model(frames=False, decoder="autoregressive"), TOKENS)
    assert found.reconstruction.shape == TOKENS.shape


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_gradients_through_time(double, predictor):
    model = video_model(predictor=predictor, output_norm=True, iterations=(2, 1))
    tokens = TOKENS[:1, :2, :4].double().requires_grad_()

    def values(tokens):
        torch.manual_seed(1)
        found = model(tokens)
        return found.slots, found.masks, found.reconstruction, slot_contrast(found.slots)

    assert torch.autograd.gradcheck(values, (tokens,), fast_mode=True)


@pytest.mark.parametrize("options", [{"predictor": "gru"}, {"refresh": -1}])
def test_wrong_options_are_errors(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        video_model(**options)


@given(st.integers(1, 3), st.integers(2, 4), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_contrast_of_slots_that_are_all_alike_is_chance(batch, time, slots):
    alike = torch.ones(batch, time, slots, 4, dtype=torch.float64)
    assert slot_contrast(alike).item() == pytest.approx(math.log(batch * slots))


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_contrast_is_lowest_where_slots_stay_and_high_where_they_swap(seed):
    generator = torch.Generator().manual_seed(seed)
    once = torch.randn(2, 1, 3, 8, dtype=torch.float64, generator=generator)
    still = once.expand(-1, 3, -1, -1)
    moved = still + torch.randn(2, 3, 3, 8, dtype=torch.float64, generator=generator)
    swapped = torch.cat([once, once[:, :, [1, 2, 0]], once], dim=1)
    assert 0 <= slot_contrast(still) < slot_contrast(moved)
    assert slot_contrast(still) < slot_contrast(swapped)
    torch.testing.assert_close(slot_contrast(still * 7), slot_contrast(still))


def test_contrast_by_its_definition():
    slots = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    terms = []
    for t in range(2):
        for b in range(2):
            for k in range(2):
                near = torch.cosine_similarity(slots[b, t, k], slots[:, t + 1].reshape(4, 4), dim=-1) / 0.1
                terms.append(near.logsumexp(0) - near[2 * b + k])
    torch.testing.assert_close(slot_contrast(slots), torch.stack(terms).mean())


def test_contrast_tells_videos_apart():
    orthogonal = torch.eye(3)[None, None].expand(1, 2, -1, -1)
    assert slot_contrast(orthogonal) < 0.01
    twice = orthogonal.expand(2, -1, -1, -1)
    assert slot_contrast(twice).item() == pytest.approx(math.log(2), abs=0.01), "two videos of the same slots"
    with pytest.raises(ValueError, match="no next frame"):
        slot_contrast(orthogonal[:, :1])
