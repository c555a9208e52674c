"""Controls draw what they are asked for, say what goes wrong, and are nothing where nobody can use them."""

import base64
import io
from datetime import UTC, datetime
from types import SimpleNamespace

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image

from lib import ROOT, explore
from lib.models.pixel_autoencoder import Autoencoder
from lib.training import Run


def pixels(panel):
    return np.array(Image.open(io.BytesIO(panel.picture.value)))


@pytest.fixture
def panel():
    """One number; 7 is an error, 8 an interrupt, 9 leaves the picture."""
    drawn = []

    def draw(level):
        drawn.append(level)
        if level == 7:
            raise ValueError("seven is <no> level\nnever")
        if level == 8:
            raise KeyboardInterrupt
        return (None if level == 9 else np.full((4, 6, 3), level, np.uint8)), f"level {level}"

    made = explore.Panel(draw, {"level": explore.number("level", 0, 9, 3, "of grey")})
    made.drawn = drawn
    return made


def test_a_control_changes_the_picture_in_place(panel):
    picture = panel.picture
    assert not picture.value and not panel.drawn, "nothing is drawn before it is shown"
    panel.start()
    assert (pixels(panel) == 3).all() and panel.line.value == "level 3"
    panel.controls["level"].value = 5
    assert panel.picture is picture and (pixels(panel) == 5).all() and 0 < panel.seconds < 1


def test_a_film_shows_a_control_that_moves(tmp_path, monkeypatch):
    def draw(level, other):
        if level == 7:
            raise ValueError("no such level")
        return np.full((4, 70, 3), 20 * level, np.uint8), f"level {level} of {other}"

    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    controls = {"level": explore.number("level", 0, 9, 3, ""), "other": explore.number("other", 0, 9, 5, "")}
    panel = explore.Panel(draw, controls)
    explore.film(panel, [{"level": level} for level in (1, 4, 6)], "a", "levels")
    film, found = Image.open(tmp_path / "figures" / "a.gif"), []
    for t in range(film.n_frames):
        film.seek(t)
        found.append(np.array(film.convert("RGB")))
    assert film.info["duration"] == 700 and [f[:4].mean() for f in found] == pytest.approx([20, 80, 120], abs=3)
    assert (found[0][4:] != found[1][4:]).any(), "the text below says which level"
    with pytest.raises(ValueError, match="no such level"):
        explore.film(panel, [{"level": 7}], "a", "levels")


def test_what_goes_wrong_is_one_line_and_the_picture_stays(panel):
    panel.start()
    panel.controls["level"].value = 7
    assert 'role="alert"' in panel.line.value and panel.line.value.endswith(">seven is &lt;no&gt; level</span>")
    assert (pixels(panel) == 3).all()
    panel.controls["level"].value = 8
    assert panel.line.value.startswith("Interrupted") and (pixels(panel) == 3).all()
    panel.controls["level"].value = 9
    assert panel.line.value == "level 9" and (pixels(panel) == 3).all()
    panel.controls["level"].value = 4
    assert panel.line.value == "level 4" and (pixels(panel) == 4).all()


def test_several_controls_change_with_one_picture(panel):
    with panel.held():
        panel.controls["level"].value = 1
        panel.controls["level"].value = 2
    assert panel.drawn == [2]


def test_progress_is_shown_while_it_lasts(panel):
    seen = [(panel.bar.value, panel.bar.layout.display) for _ in panel.each("abc", "letters")]
    assert seen == [(0, None), (1, None), (2, None)] and panel.bar.description == "letters" and panel.bar.max == 3
    assert panel.bar.layout.display == "none"
    with panel.guarded():
        for _ in panel.each("abc", "letters"):
            raise ValueError
    assert panel.bar.layout.display == "none" and "ValueError" in panel.line.value


def test_every_control_has_a_label_and_says_what_it_does():
    made = [
        explore.number("a", 0, 1, 0, "help"),
        explore.scale("a", 0.1, 1, 0.1, "help"),
        explore.choice("a", "xyz", "y", "help"),
        explore.switch("a", True, "help"),
        explore.text("a", "", "help"),
        explore.button("a", "help", lambda: None),
        explore.upload("a", "help"),
    ]
    assert {(control.description, control.tooltip) for control in made} == {("a", "help")}
    assert {c.style.description_width for c in made[:5]} == {"initial"}, "no label is cut"
    assert made[2].value == "y" and explore.choice("a", [("one", 1), ("two", 2)], 9, "help").value == 1


def test_a_button_acts_and_a_file_is_read():
    pressed, file = [], explore.upload("a", "help")
    explore.button("a", "help", lambda: pressed.append(1)).click()
    file.value = (
        {"name": "x", "type": "", "size": 3, "content": memoryview(b"abc"), "last_modified": datetime.now(UTC)},
    )
    assert pressed == [1] and explore.uploaded(file.value) == b"abc" and explore.uploaded(()) is None


def test_a_click_reaches_the_pixel_under_it(panel):
    pytest.importorskip("ipyevents")
    seen, side = [], 100
    picture = np.zeros((20, 30, 3))
    shown = explore.sheet({"a": picture, "b": explore.marked(picture, 13, 7), "c": picture}, 2, side)
    panel.clicked(lambda x, y: seen.append(explore.pixel(x, y, (20, 30), side)))
    red = np.argwhere((shown[..., 0] > 200) & (shown[..., 1] < 50))
    for y, x in red:
        panel._event._dom_handlers({"dataX": int(x), "dataY": int(y)})
    cross = {(r, 7) for r in range(11, 16)} | {(13, c) for c in range(5, 10)}
    assert set(seen) == cross, "every point of a drawn pixel is that pixel"
    assert explore.pixel(10**6, -5, (20, 30), side)[0] < 20, "beside the picture is its nearest pixel"


def test_pictures_of_any_kind_lie_on_a_sheet():
    shown = explore.sheet(
        {"grey": np.ones((5, 10)), "bytes": np.full((10, 5, 3), 9, np.uint8), "x": np.zeros((4, 4, 3))}
    )
    assert shown.dtype == np.uint8 and shown.shape == (240 + explore.TITLE, 3 * 240 + 2 * explore.GAP, 3)
    two = explore.sheet({"a": np.ones((9, 9)), "b": np.ones((9, 9))}, columns=1, side=50)
    assert two.shape == (2 * (50 + explore.TITLE), 50, 3)


def test_bars_and_lines_show_their_numbers():
    bars = explore.bars([("one", 0.5, 0), ("two", -0.25, 1)])
    blue = (bars == [0x33, 0x22, 0x88]).all(-1).sum(1).max()
    yellow = (bars == [0xDD, 0xCC, 0x77]).all(-1).sum(1).max()
    assert abs(blue / yellow - 2) < 0.05
    curve = explore.lines({"a": [(0, 0.0), (10, 1.0)], "b": []}, 10, (50, 60))
    assert curve.shape == (50, 60, 3) and (curve[0, -2:] != 255).any() and (curve[-1, :2] != 255).any()


@pytest.fixture
def shown(monkeypatch):
    """An explorer, and what a notebook would be told to show."""
    told, built = [], []

    def build():
        built.append(1)
        return explore.Panel(lambda: (np.zeros((4, 4, 3), np.uint8), "drawn"), {})

    monkeypatch.setattr(explore, "display", lambda data, **_: told.append(data))
    return SimpleNamespace(
        explorer=explore.Explorer("explore.x()", "ex_slot1_masks.png", build), told=told, built=built
    )


def test_where_nobody_looks_an_explorer_is_one_line(shown, capsys):
    shown.explorer._ipython_display_()
    due = "explore.x() opens here in JupyterLab; a still of it: figures/ex_slot1_masks.png"
    assert capsys.readouterr().out == f"{due}\n" == f"{shown.explorer!r}\n" and not shown.built and not shown.told


def test_in_a_notebook_it_is_a_panel_with_a_still_behind_it(shown, monkeypatch):
    monkeypatch.setattr(explore, "watched", lambda: True)
    shown.explorer._ipython_display_()
    (data,) = shown.told
    panel = shown.explorer.open()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.widget.model_id
    assert base64.b64decode(data["image/png"]) == (ROOT / "figures" / "ex_slot1_masks.png").read_bytes()
    assert panel.line.value == "drawn" and len(shown.built) == 1


def test_what_cannot_be_opened_is_one_line(shown, monkeypatch, capsys):
    monkeypatch.setattr(explore, "watched", lambda: True)
    explore.Explorer("explore.x()", "x.png", lambda: 1 / 0)._ipython_display_()
    assert capsys.readouterr().out == "explore.x(): division by zero\n" and not shown.told


@pytest.mark.parametrize(("shell", "variables", "due"), [
    (None, {}, False), (SimpleNamespace(), {}, False), (SimpleNamespace(kernel=1), {}, True),
    (SimpleNamespace(kernel=1), {"SLOTS_PROFILE": "smoke"}, False),
    (SimpleNamespace(kernel=1), {"PYTEST_CURRENT_TEST": "x"}, False),
    (SimpleNamespace(kernel=1), {"PYTEST_CURRENT_TEST": "x", "JPY_SESSION_NAME": "a.ipynb"}, True),
    (SimpleNamespace(kernel=1), {"SLOTS_PROFILE": "smoke", "JPY_SESSION_NAME": "a.ipynb"}, False),
])  # fmt: skip
def test_who_is_watched(monkeypatch, shell, variables, due):
    for name in ("SLOTS_PROFILE", "PYTEST_CURRENT_TEST", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(explore, "get_ipython", lambda: shell)
    assert explore.watched() is due


def test_models_of_pixels_begin_at_the_temperature_that_they_ended_with():
    header = {"config": {"rules": {"temperature": [1.0, 0.05]}}}
    runs = {"a": Run(Autoencoder(16, num_slots=15), header, {}), "b": Run(Autoencoder(16, num_slots=2), header, {})}
    panel = explore.slots(runs, torch.rand(2, 3, 16, 16), "x.png").open()
    panel.start()
    assert panel.controls["temperature"].value == pytest.approx(0.05) and pixels(panel).shape[0] > 4 * 160
    before = pixels(panel)
    for name, value in (("noise", 3), ("temperature", 1.0), ("index", 1), ("model", "b")):
        panel.controls[name].value = value
        after = pixels(panel)
        assert not np.array_equal(before, after), name
        before = after
    assert "of a pixel" in panel.line.value


def test_all_is_shown_in_a_box_that_says_when_its_kernel_is_gone(panel):
    style = panel.widget.children[0].value
    assert "explorer" in panel.widget._dom_classes and "run this cell again" in style
    assert isinstance(panel.widget, widgets.VBox)
