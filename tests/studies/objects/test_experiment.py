"""Training on frozen tokens and measuring masks, on a split small enough to know the answer."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.models.dinosaur import Dinosaur
from lib.studies.objects import experiment
from lib.studies.objects.experiment import ImageConfig
from lib.training import Fitted, Recipe

SMALL = {"num_slots": 3, "slot_dim": 8, "hidden_dim": 16}
RECIPE = Recipe(3, batch=2, lr=1e-3, warmup=1)


@pytest.fixture
def data(split):
    return split(frames=3, step=4)


def model(**changes):
    torch.manual_seed(0)
    return Dinosaur(4, **(SMALL | changes)).eval()


def test_equal_rules_load_and_changed_rules_train(data, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    first = experiment.train("d", data, ImageConfig(model=SMALL), RECIPE, device="cpu")
    (file,) = (tmp_path / "checkpoints").glob("d-??????.safetensors")
    written = file.stat().st_mtime_ns
    again = experiment.train("d", data, ImageConfig(model=SMALL), RECIPE, device="cpu")
    assert first.header["config"] == again.header["config"] and len(first.history) == len(again.history)
    other = experiment.train("d", data, ImageConfig(model=SMALL, area=0.02), RECIPE, device="cpu")
    assert other.header["config"]["rules"]["area"] == 0.02
    assert file.stat().st_mtime_ns == written and len(list(file.parent.iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"config": ImageConfig(model=SMALL | {"input_norm": "none"})},
        {"config": ImageConfig(model=SMALL, area=1.0, diversity=1.0)},
        {"recipe": Recipe(3, batch=2, lr=1e-3, warmup=1, precision="bf16-true")},
        {"data": "def"},
        {"network": partial(Dinosaur, iterations=2)},
        {"watch_every": 1},
    ],
    ids=["input norm", "weights of the loss", "precision", "data", "network", "watched"],
)
def test_no_two_trainings_share_a_file(data, tmp_path, monkeypatch, change):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    other = SimpleNamespace(**{**vars(data), "fingerprint": change.pop("data", data.fingerprint)})
    seen = []
    monkeypatch.setattr(
        experiment, "fit", lambda m, loss, r, *, state, **_: seen.append(state) or Fitted([{}], {}, 0.0)
    )
    alike = {"config": ImageConfig(model=SMALL), "recipe": RECIPE, "device": "cpu", "held_out": data}
    experiment.train("d", data, **alike)
    experiment.train("d", other, **(alike | change))
    assert seen[0].path.name != seen[1].path.name and seen[0].about != seen[1].about


def test_a_trained_model_knows_the_statistics_of_its_tokens(data, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    run = experiment.train("s", data, ImageConfig(model=SMALL), RECIPE, device="cpu")
    torch.testing.assert_close(run.model.mean, data.features.mean, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(run.model.std, data.features.std, atol=1e-2, rtol=1e-2)


def test_coarse_steps_see_pooled_tokens(data, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    counts, real = [], experiment.objective
    monkeypatch.setattr(experiment, "objective", lambda net, t, rules: counts.append(t.shape[1]) or real(net, t, rules))
    experiment.train(
        "c", data, ImageConfig(model=SMALL, coarse=0.5), Recipe(4, batch=2, lr=1e-3, warmup=1), device="cpu"
    )
    assert counts == [16, 16, 64, 64]


def test_pooled_tokens_are_means_of_their_squares():
    tokens = torch.arange(2 * 16 * 3.0).reshape(2, 16, 3)
    pooled = experiment.pool(tokens, 2)
    for corner, members in enumerate(([0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15])):
        torch.testing.assert_close(pooled[:, corner], tokens[:, members].mean(1))


def test_a_random_half_of_the_positions_is_an_unbiased_loss(data):
    net = model(init="learned")
    tokens = data.features.batch(slice(None))

    def error(sample, seed):
        torch.manual_seed(seed)
        return experiment.objective(net, tokens, ImageConfig(sample=sample, area=0.0))[1]["error"].item()

    with torch.no_grad():
        some = [error(32, seed) for seed in range(100)]
        assert np.mean(some) == pytest.approx(error(0, 0), rel=0.05) and np.std(some) > 0


@pytest.mark.parametrize("extra", [{"area": 1.0}, {"diversity": 1.0}])
def test_weights_add_their_loss(data, extra):
    """Area of K equal masks is K sqrt(1 / K), at most sqrt(K); the mean cosine lies in -1..1."""
    net, tokens = model(init="learned"), data.features.batch(slice(None))
    with torch.no_grad():
        plain, _ = experiment.objective(net, tokens, ImageConfig(sample=0, area=0.0))
        more, _ = experiment.objective(net, tokens, ImageConfig(**({"sample": 0, "area": 0.0} | extra)))
    added = float(more - plain)
    assert 1 <= added <= 3**0.5 + 1e-3 if "area" in extra else -1 <= added <= 1 and added != 0


def test_cosine_of_known_vectors():
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], [[1.0, 1.0], [2.0, 2.0], [0.5, 0.5]]])
    torch.testing.assert_close(experiment.cosine(vectors), torch.tensor([1 / 3, 1.0]))


def test_masks_repeat_with_their_seed_and_follow_the_order_of_images(data):
    net, some = model(), np.array([0, 3, 5])
    one, values = experiment.masks_of(net, data, some)
    two, _ = experiment.masks_of(net, data, some)
    other, _ = experiment.masks_of(net, data, some, seed=1)
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == (3, 3, 64) and {len(v) for v in values.values()} == {3}
    torch.testing.assert_close(one.sum(1), torch.ones(3, 64))
    learned = model(init="learned")
    forward, _ = experiment.masks_of(learned, data, some)
    backward, _ = experiment.masks_of(learned, data, some[::-1].copy())
    torch.testing.assert_close(forward, backward.flip(0), atol=1e-5, rtol=1e-4)


def test_a_report_takes_its_threshold_from_validation_and_scores_every_stage(data, monkeypatch):
    seen = []
    monkeypatch.setattr(experiment, "tried", lambda m, d, kind: seen.append(d) or {0.2: (0.5, 0.4), 0.3: (0.6, 0.5)})
    validation = SimpleNamespace(name="validation")
    found = experiment.report(model(init="learned"), validation, data)
    assert seen == [validation] and found["threshold"] == 0.3
    assert found["tried"] == [[0.2, 0.5, 0.4], [0.3, 0.6, 0.5]]
    assert {"raw", "label_free", "merged", "refined"} < found.keys() and "fg_ari" in found["raw"]
    stages = experiment.stages(model(init="learned"), data, 0.0)
    torch.testing.assert_close(stages["raw"], stages["merged"])  # 0 merges nothing


def test_the_threshold_is_one_that_was_tried(data):
    tried = experiment.tried(model(init="learned"), data)
    assert tuple(tried) == experiment.THRESHOLDS and experiment.choose_threshold(tried) in tried
    raw = experiment.measure(model(init="learned"), data)
    assert tried[0.0] == pytest.approx([np.nanmean(raw[k]) for k in ("fg_ari", "mbo")])
