"""Figures: few bytes, the same in the file and in the notebook, and the colours that were meant."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lib import plots


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What a notebook would show; figures are written to tmp_path."""
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    found = []
    monkeypatch.setattr(plots.display, "display", found.append)
    return found


def gradient(side: int = 32) -> np.ndarray:
    """A smooth picture of a thousand colours, and in it two by two pixels of every slot's colour."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    image = np.stack([x, y, 0.5 + 0.5 * np.sin(6 * x * y)], -1)
    for slot, colour in enumerate(plots.SLOT_MAP.colors):
        row, column = 4 + 6 * (slot // 5), 2 + 6 * (slot % 5)
        image[row : row + 2, column : column + 2] = colour
    return image


def pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), int)


def test_the_notebook_shows_the_bytes_of_the_file_once_and_slots_keep_their_colours(tmp_path, shown):
    """Rare colours, such as one slot's, are the first that fewer colours cost."""
    figure, drawn = plots.grid([[gradient()], [np.full((32, 32, 3), 0.4)]]), io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plots.save(figure, "a")
    content = (tmp_path / "figures" / "a.png").read_bytes()
    assert [s.data for s in shown] == [content] and not plt.get_fignums()
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["a.png"]
    assert Image.open(io.BytesIO(content)).mode == "P" and len(content) < len(drawn.getvalue())
    few, all_ = pixels(io.BytesIO(content)), pixels(drawn)
    for colour in np.round(255 * np.array(plots.SLOT_MAP.colors)).astype(int):
        place = (all_ == colour).all(-1)
        assert place.sum() >= 4 and np.abs(few - all_)[place].max() <= 24


def test_a_figure_of_few_colours_is_kept_exactly(tmp_path, shown):
    masks = torch.eye(9).view(9, 9, 1).expand(9, 9, 9)
    figure, drawn = plots.grid([[plots.overlay(torch.full((3, 9, 9), 0.5), masks)]]), io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plots.save(figure, "a")
    assert np.abs(pixels(tmp_path / "figures" / "a.png") - pixels(drawn)).max() <= 1


def test_the_first_component_is_what_varies_most():
    """Ten channels that all carry one number of a token: that number, bright for large, whatever its unit."""
    values = torch.linspace(0, 1, 50)
    tokens = (values[:, None] * torch.arange(1, 11) + 0.01 * torch.randn(50, 10, generator=torch.manual_seed(0)))[None]
    found = plots.components(tokens)
    assert found.shape == (1, 50, 3) and found.min() == 0 and found.max() == 1
    assert np.corrcoef(found[0, :, 0], values)[0, 1] > 0.99


def test_too_large_a_figure_leaves_nothing(tmp_path, shown):
    noise = np.random.default_rng(0).random((700, 700, 3))
    figure = plt.figure(figsize=(7, 7))
    figure.add_axes((0, 0, 1, 1)).imshow(noise, interpolation="nearest")
    with pytest.raises(ValueError, match="figure big has .* the limit is 300000"):
        plots.save(figure, "big")
    assert not shown and not plt.get_fignums() and not (tmp_path / "figures").exists()


def test_outside_a_notebook_a_figure_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    plots.save(plots.grid([[gradient()]]), "a")
    assert (tmp_path / "figures" / "a.png").exists()


def test_a_film_is_written_and_returned(tmp_path, shown):
    content = plots.film([gradient(), gradient()[::-1]], "a")
    assert (tmp_path / "figures" / "a.gif").read_bytes() == content
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["a.gif"]
