"""The sliders draw what they were asked for, and count what they draw."""

import matplotlib.pyplot as plt
import pytest
import torch

from lib import explore
from lib.models.pixel_autoencoder import Autoencoder


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def titles():
    return [axis.get_title() for axis in plt.gcf().axes]


def test_any_number_of_slots_is_drawn():
    model = Autoencoder(size=16, num_slots=15)
    widget = explore.slot_masks({"a": model}, torch.rand(2, 3, 16, 16))
    widget.f(model="a", index=1, temperature=1.0, noise=3)
    assert len([axis for axis in plt.gcf().axes if axis.images]) == 3 + 15
    assert titles()[:3] == ["image", "reconstruction", "masks"]


def test_what_is_flagged_is_counted_and_red():
    images, score = torch.full((1, 3, 4, 4), 0.5), torch.arange(16.0).view(1, 4, 4)
    anomalies = score >= 14  # two pixels, the highest scores
    thresholds = {"a": [15.0, 13.0, 0.0]}
    widget = explore.flagged(images, {"a": score}, anomalies, thresholds)
    for step, (hits, others) in enumerate([(1, 0), (2, 1), (2, 14)]):
        widget.f(score="a", index=0, step=step)
        assert titles()[1] == f"{hits} of 2 anomaly pixels, {others} others\na from {thresholds['a'][step]:.3g}"
        shown = plt.gcf().axes[1].images[0].get_array()
        assert int((shown[..., 0] > 0.6).sum()) == hits + others, "flagged pixels turn red"
    with pytest.raises(ValueError, match=r"thresholds are \[1, 2\] in number; give every score as many"):
        explore.flagged(images, {}, anomalies, {"a": [1.0], "b": [1.0, 0.5]})
