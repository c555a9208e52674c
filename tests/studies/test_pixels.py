"""The training step, the measures and the checkpoints of the pixel series, on images of 16 px."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib.data import DataError, photos
from lib.data.shapes import Shapes
from lib.studies import pixels
from lib.studies.pixels import Config
from lib.training import Recipe

RECIPE = Recipe(2, batch=3)
SHAPES = Shapes(4, size=16, count=(1, 2))


class Halved(torch.nn.Module):
    """Reconstructs half of each value, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.tensor(0.5)), []

    def forward(self, images, temperature):
        self.seen.append((images, temperature))
        masks = torch.tensor([0.75, 0.25])[:, None, None].expand(len(images), 2, *images.shape[-2:])
        return SimpleNamespace(reconstruction=self.weight * images, masks=masks)


def test_the_loss_is_the_squared_error_at_the_temperature_of_the_step():
    images, config = torch.ones(4, 3, 8, 8), Config(temperature=(1.0, 0.5))
    for step, temperature in ((0, 1.0), (1, 0.5)):
        model = Halved()
        loss, shown = pixels.training_step(model, step, images=images, config=config, recipe=RECIPE)
        assert loss.item() == 0.25 and shown == {"mask_certainty": 0.75}
        assert model.seen[0][0].shape == (3, 3, 8, 8) and model.seen[0][1] == temperature


def test_the_layer_the_background_and_the_price_appear_together():
    torch.manual_seed(0)
    images, ids = Shapes(4, size=16, count=(1, 2), background="coloured").tensors
    config, recipe, seen = Config(layer=3.0, area=0.5, excess=0.5), Recipe(101, batch=3), []
    model = pixels.network(config, 16)
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for step, logit in ((0, -10.0), (40, -3.8), (100, 3.0)):
        torch.manual_seed(0)
        loss, _ = pixels.training_step(model, step, images, config, recipe, ids)
        assert model.presence.item() == pytest.approx(logit, abs=0.1)
        for bare in (replace(config, area=0.0), replace(config, excess=0.0)):
            torch.manual_seed(0)
            less, _ = pixels.training_step(model, step, images, bare, recipe, ids)
            assert (loss > less) == (step > 30)
    black, full = seen[0], seen[-1]
    assert black.amax(1).eq(0).float().mean() > 0.5 and full.amax(1).eq(0).sum() == 0, "black before, coloured after"


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_each_image_of_a_batch_is_jittered_on_its_own(strength):
    torch.manual_seed(0)
    model, images = Halved(), torch.rand(1, 3, 8, 8)
    pixels.training_step(model, 0, images=images, config=Config(jitter=strength), recipe=RECIPE)
    batch = model.seen[0][0]
    assert all(torch.equal(image, images[0]) == (strength == 0) for image in batch)
    assert torch.equal(batch[0], batch[1]) == (strength == 0)


def test_what_is_known_without_ground_truth_is_measured_alike():
    torch.manual_seed(0)
    model, (images, ids) = pixels.network(Config(), 16).eval(), SHAPES.tensors
    seen, again, blind = (pixels.measure(model, images, known, 1.0) for known in (ids, ids, None))
    masks = seen.pop("masks")
    assert torch.equal(masks, again.pop("masks")) and torch.equal(masks, blind.pop("masks"))
    assert seen == again and masks.shape == (4, 5, 16, 16)
    assert seen.keys() - blind.keys() == {*pixels.OF_OBJECTS, "fg_ari_attention", "fg_ari_slots"}
    assert blind == {key: seen[key] for key in blind}
    assert not torch.equal(masks, pixels.measure(model, images, ids, 1.0, seed=1)["masks"])


def test_shapes_are_drawn_and_trained_on_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    known = {"data": SHAPES.fingerprint, "held_out": SHAPES.tensors, "watch_every": 1, "device": "cpu"}
    first = pixels.train("p", SHAPES, Config(), RECIPE, **known)
    assert "trains 2 steps" in capsys.readouterr().out
    assert first.extra["film"].shape == (2, 2, 16, 16) and first.extra["film"].dtype == torch.uint8
    assert first.extra.keys() == {"film"} and all(row.keys() >= {*pixels.OF_MASKS} for row in first.history)
    undrawn = Shapes(4, size=16, count=(1, 2))
    again = pixels.train("p", undrawn, Config(), RECIPE, **known)
    assert capsys.readouterr().out == "" and again.history == first.history and "tensors" not in vars(undrawn)
    pixels.train("p", SHAPES, Config(jitter=0.5), RECIPE, **known)
    assert "trains 2 steps" in capsys.readouterr().out


def test_the_schedule_runs_from_one_to_a_hundredth():
    assert pixels.linear_temperature(0, 100) == 1.0
    assert pixels.linear_temperature(99, 100) == pytest.approx(0.01)
    assert pixels.linear_temperature(500, 100) == pytest.approx(0.01), "past the end it stays"
    values = [pixels.linear_temperature(s, 100) for s in range(100)]
    assert values == sorted(values, reverse=True)
    assert pixels.linear_temperature(7, 100, 0.5, 0.5) == 0.5


def test_the_fingerprint_follows_the_pixels():
    assert pixels.fingerprint(["cat"], 32) == pixels.fingerprint(["cat"], 32)
    assert len({pixels.fingerprint([n], s) for n, s in (("cat", 32), ("cat", 33), ("coffee", 32))}) == 3


def test_outlined_objects():
    ids = pixels.outlines("coffee", 128)
    assert ids.unique().tolist() == [0, 1, 2, 3] and ids.shape == (128, 128)
    assert ids[35, 50] == 2 and ids[92, 85] == 3 and ids[110, 60] == 1 and ids[5, 5] == 0, "cup, spoon, saucer, table"
    cup = photos.load("coffee", 128)[:, ids == 2].mean(1)
    table = photos.load("coffee", 128)[:, ids == 0].mean(1)
    assert cup.mean() > table.mean() + 0.1, "the cup is the bright thing"
    with pytest.raises(DataError, match="no outlines for 'cat'.*coffee"):
        pixels.outlines("cat")


def test_crop_i_depends_on_the_seed_and_i_alone():
    few, many = pixels.crops(["cat", "coffee"], 3, 32, seed=1), pixels.crops(["cat", "coffee"], 8, 32, seed=1)
    assert torch.equal(few, many[:3]) and many.shape == (8, 3, 32, 32) and 0 <= many.min() and many.max() <= 1
    assert not torch.equal(few, pixels.crops(["cat", "coffee"], 3, 32, seed=2))


def test_slots_are_reordered_to_those_they_are_most_like():
    reference = torch.eye(4).view(4, 2, 2)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(pixels.match(0.9 * reference[order] + 0.02, reference), 0.9 * reference + 0.02)
