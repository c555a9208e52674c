"""Figures: few bytes, the same in the file and in the notebook, and the colours that were meant."""

import base64
import html
import io
import re

import matplotlib.pyplot as plt
import nbconvert
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib import ROOT, plots
from lib.data.movi import MoviDataset
from lib.models.pixel_autoencoder import Autoencoder


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What a notebook would show; figures are written to tmp_path."""
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    found = []
    monkeypatch.setattr(plots.display, "display", lambda shown, raw=False: found.append(shown))
    return found


def gradient(side: int = 32) -> np.ndarray:
    """A smooth picture of a thousand colours, and in it two by two pixels of every slot's colour."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    image = np.stack([x, y, 0.5 + 0.5 * np.sin(6 * x * y)], -1)
    for slot, colour in enumerate(plots.SLOT_RGB):
        row, column = 4 + 6 * (slot // 5), 2 + 6 * (slot % 5)
        image[row : row + 2, column : column + 2] = colour
    return image


def pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), int)


def test_the_notebook_shows_the_bytes_of_the_file_once_and_slots_keep_their_colours(tmp_path, shown):
    """Rare colours, such as one slot's, are the first that fewer colours cost."""
    figure, drawn = plots.grid([[gradient()], [np.full((32, 32, 3), 0.4)]]), io.BytesIO()
    figure.savefig(drawn, dpi=100)
    plots.save(figure, "a")
    content = (tmp_path / "figures" / "a.png").read_bytes()
    assert [s.data for s in shown] == [content] and not plt.get_fignums()
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["a.png"]
    assert Image.open(io.BytesIO(content)).mode == "P" and len(content) < len(drawn.getvalue())
    few, all_ = pixels(io.BytesIO(content)), pixels(drawn)
    for colour in np.round(255 * plots.SLOT_RGB).astype(int):
        place = (all_ == colour).all(-1)
        assert place.sum() >= 4 and np.abs(few - all_)[place].max() <= 24


def test_a_figure_of_few_colours_is_kept_exactly(tmp_path, shown):
    masks = torch.eye(9).view(9, 9, 1).expand(9, 9, 9)
    figure, drawn = plots.grid([[plots.overlay(torch.full((3, 9, 9), 0.5), masks)]]), io.BytesIO()
    figure.savefig(drawn, dpi=100)
    plots.save(figure, "a")
    assert np.abs(pixels(tmp_path / "figures" / "a.png") - pixels(drawn)).max() <= 1


def test_the_first_component_is_what_varies_most():
    """Ten channels that all carry one number of a token: that number, bright for large, whatever its unit."""
    values = torch.linspace(0, 1, 50)
    tokens = (values[:, None] * torch.arange(1, 11) + 0.01 * torch.randn(50, 10, generator=torch.manual_seed(0)))[None]
    found = plots.components(tokens)
    assert found.shape == (1, 50, 3) and found.min() == 0 and found.max() == 1
    assert np.corrcoef(found[0, :, 0], values)[0, 1] > 0.99


def test_too_large_a_figure_is_shown_with_a_warning_of_one_line(tmp_path, shown, capsys, monkeypatch):
    """Whatever was trained for it is not lost."""
    monkeypatch.setattr(plots, "LIMIT", 10_000)
    noise = np.random.default_rng(0).random((100, 100, 3))
    plots.save(plots.grid([[noise]]), "big")
    plots.film([noise, noise[::-1]], "long", "noise")
    warnings = capsys.readouterr().out.splitlines()
    assert [line.split(" has ")[0] for line in warnings] == ["figure big", "figure long"]
    assert len(shown) == 2 and not plt.get_fignums()
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"big.png", "long.gif"}


@pytest.mark.parametrize("number", [1, 13, 14, 30])
def test_any_number_of_slots_and_of_lines(number):
    """The first 13 have the colours of the palette, all of them one of their own."""
    masks = torch.eye(number)[:, None]
    shown = plots.overlay(torch.zeros(3, 1, number), masks, strength=1.0)[0]
    assert np.allclose(shown[:13], plots.SLOT_RGB[:number])
    assert len(np.unique(shown.round(4), axis=0)) == number
    ids = plots.labels(torch.arange(number + 1)[None])[0]
    assert not ids[0].any() and np.allclose(ids[1:], [plots.SLOT_RGB[i % 13] for i in range(1, number + 1)])
    figure, axis = plt.subplots()
    plots.curves(axis, {f"{i}": [[{"step": 0, "a": i}, {"step": 1, "a": i}]] for i in range(number)}, "a", "a")
    colours = [line.get_color() for line in axis.lines]
    assert len(colours) == number and len(set(colours[:13])) == min(number, 13)
    assert colours[:4] == [plots.SLOTS[i] for i in (0, 3, 2, 1)][:number]
    plt.close(figure)


def test_an_image_is_shown_as_it_is_and_nothing_beyond_its_range():
    image = torch.tensor([-1.0, 0.25, 2.0]).view(3, 1, 1).requires_grad_()
    assert plots.rgb(image).tolist() == [[[0, 0.25, 1]]]


def test_a_slot_is_shown_through_its_mask_on_white():
    image, masks = torch.zeros(3, 1, 2), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    of_slots = torch.full((2, 3, 1, 2), 0.5)
    first, second, _, *panels = plots.slot_panels(image, image + 0.25, masks, of_slots)
    assert (first == 0).all() and (second == 0.25).all()
    assert [p[0, :, 0].tolist() for p in panels] == [[0.5, 1], [1, 0.5]]


def test_a_grid_has_titles_above_and_names_beside():
    figure = plots.grid([[np.zeros((2, 2))] * 2, [np.zeros((2, 2))]], ["a", "b"], ["first", "second"])
    assert [a.get_title() for a in figure.axes] == ["a", "b", "", ""]
    assert [a.get_ylabel() for a in figure.axes] == ["first", "", "second", ""]
    assert [len(a.images) for a in figure.axes] == [1, 1, 1, 0]
    plt.close(figure)


def test_a_curve_is_the_mean_over_seeds_in_a_band_of_one_deviation():
    figure, axis = plt.subplots()
    runs = [[{"step": 0, "x": v}, {"step": 5, "loss": 1.0}, {"step": 9, "x": v + 1}] for v in (1.0, 3.0)]
    plots.curves(axis, {"a": runs}, "x", "x, px")
    assert axis.lines[0].get_xydata().tolist() == [[0, 2], [9, 3]], "steps without it are left out"
    low, high = (f(axis.collections[0].get_paths()[0].vertices[:, 1]) for f in (min, max))
    assert (low, high) == pytest.approx((2 - 2**0.5, 3 + 2**0.5)) and axis.get_ylabel() == "x, px"
    plt.close(figure)


def test_the_source_that_is_shown_is_what_runs(shown):
    plots.source(plots.grid, Autoencoder.forward)
    first, second = (code.data.removeprefix("```python\n").removesuffix("```") for code in shown)
    assert first.startswith("def grid(") and second.startswith("def forward(self")
    compile(second, "shown", "exec")


def test_outside_a_notebook_a_figure_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    plots.save(plots.grid([[gradient()]]), "a")
    assert (tmp_path / "figures" / "a.png").exists()


def test_a_film_has_one_palette(tmp_path, shown):
    """What is red stays red, and equal colours of different frames stay equal."""
    scene = MoviDataset(ROOT / "data" / "movi_a", "validation", fields=("video", "segmentations"))[1]
    truth = [plots.labels(torch.from_numpy(m)) for m in scene.masks[:8]]
    frames = [np.concatenate([p / 255, t], axis=1) for p, t in zip(scene.video[:8], truth, strict=True)]
    plots.film(frames, "a", 'truth & "slots"')
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["a.gif"]
    content = (tmp_path / "figures" / "a.gif").read_bytes()
    film, found = Image.open(io.BytesIO(content)), []
    for frame in range(film.n_frames):
        film.seek(frame)
        found.append(np.asarray(film.convert("RGB"), float))
    assert len(found) == 8
    error = np.abs(np.stack(found) - 255 * np.stack(frames)).max(-1)
    assert np.quantile(error, 0.99) < 12  # median cut of 32 colours a frame: 50
    drawn, right = np.stack(found)[:, :, 128:], (255 * np.stack(truth)).round()
    for colour in np.unique(right.reshape(-1, 3), axis=0):
        assert len(np.unique(drawn[(right == colour).all(-1)], axis=0)) == 1


def test_a_film_is_seen_in_a_page_and_read_without_pictures(tmp_path, shown):
    plots.film([gradient(), gradient()[::-1]], "a", 'truth & "slots"')
    source = base64.b64encode((tmp_path / "figures" / "a.gif").read_bytes()).decode()
    output = nbformat.v4.new_output("display_data", data=shown[0])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    image = re.search(rf'<img [^>]*src="data:image/gif;base64,{re.escape(source)}"[^>]*>', page)[0]
    assert 'truth & "slots"' in html.unescape(image) and "IPython.core" not in page
    assert shown[0]["text/plain"] == 'truth & "slots"'


def test_a_forest_has_a_panel_a_measure_and_fills_what_leaves_zero_out():
    index = ["a, b - c, FG-ARI", "a, b - c, FG-ARI, refined", "d - c, FG-ARI", "d - c, FG-ARI, refined"]
    low, high = [0.1, -0.1, np.nan, -0.3], [0.3, 0.3, np.nan, -0.1]
    table = pd.DataFrame({"difference": [0.2, 0.1, np.nan, -0.2], "low": low, "high": high}, index)
    figure = plots.forest(table, ["FG-ARI", "FG-ARI, refined"], colours={"d - c": "red"})
    assert [a.get_xlabel() for a in figure.axes] == ["FG-ARI difference, 95 %", "FG-ARI, refined difference, 95 %"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a, b - c", "d - c"]
    points = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert [p.get_markerfacecolor() for p in points] == ["white", "red"] and points[0].get_xdata() == [0.1]
    single = plots.forest(table.rename(columns={"difference": "effect"}), label="change")
    assert len(single.axes) == 1 and [t.get_text() for t in single.axes[0].get_yticklabels()] == index
    plt.close("all")
