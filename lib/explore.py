"""What all explorers are made of: labelled controls, a picture that is updated in place, and a line of text.

An explorer is built when a notebook shows it and somebody can use it; elsewhere it is one printed line. The explorers
themselves are in `lib.studies.explore`. Introduced in notebooks/ex_slot1.ipynb.
"""

import base64
import html
import io
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lib import ROOT, plots

SIDE, GAP, TITLE = 240, 8, 22  # px: longest side of a picture on a sheet, between two, and of the line above one
#: Where no kernel is left, ipywidgets draws a broken chain on every control; one sentence says more.
STYLE = """<style>
.explorer.jupyter-widgets-disconnected::before { content: "The kernel has stopped: run this cell again."; font: inherit;
  position: static; display: block; color: #882255; }
.explorer .jupyter-widgets-disconnected::before { content: none; }
.explorer img { image-rendering: auto; height: auto; }
</style>"""

Pixels = np.ndarray  # uint8 [H, W, 3]


def watched() -> bool:
    """Whether somebody may use controls: in a kernel that runs neither for `lib.run` nor for nbval.

    The kernel of a page (JPY_SESSION_NAME) that a test opens in a browser counts.
    """
    tested = "PYTEST_CURRENT_TEST" in os.environ and "JPY_SESSION_NAME" not in os.environ
    return hasattr(get_ipython(), "kernel") and "SLOTS_PROFILE" not in os.environ and not tested


class Panel:
    """Controls over a picture over a line of text.

    Args:
        draw: `draw(**values of the controls)` returns the picture, or None to leave it, and the text under it.
        controls: by name of the argument.
        above, below: more widgets, before the controls and under the text.
        start: draws the first picture, if that takes more than `update`.

    Attributes:
        widget: what is shown.
        seconds: that the last change took, from the event to the new picture.
    """

    def __init__(
        self,
        draw: Callable[..., tuple[Pixels | None, str]],
        controls: dict[str, widgets.Widget],
        above: Sequence[widgets.Widget] = (),
        below: Sequence[widgets.Widget] = (),
        start: Callable[[], None] | None = None,
    ):
        self.draw, self.controls, self.seconds, self._held = draw, controls, 0.0, False
        self.start = start or self.update
        # Without a tooltip: a widget that has no description breaks on one, in the browser alone.
        self.picture = widgets.Image(format="png")
        self.picture.layout.max_width = "100%"
        self.line, self.bar = widgets.HTML(), widgets.IntProgress(0, 0, 1)
        self.bar.layout.display = "none"
        for control in controls.values():
            control.observe(self.update, "value")
        row = widgets.Box([*above, *controls.values()])
        row.layout.flex_flow = "row wrap"
        self.widget = widgets.VBox([widgets.HTML(STYLE), row, self.bar, self.picture, self.line, *below])
        self.widget.add_class("explorer")

    def update(self, _: Any = None) -> None:
        """Draw what the controls ask for; what goes wrong is said in the line, and the last picture stays."""
        if self._held:
            return
        begun = time.perf_counter()
        with self.guarded():
            pixels, text = self.draw(**{name: control.value for name, control in self.controls.items()})
            if pixels is not None:
                self.picture.value = png(pixels)
            self.line.value = text
        self.seconds = time.perf_counter() - begun

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within, an error or an interrupt becomes the line of text."""
        try:
            yield
        except KeyboardInterrupt:
            self.line.value = "Interrupted; move a control to go on."
        except Exception as error:  # whatever data, models and the user's file may raise
            self.line.value = wrong(error)
        finally:
            self.bar.layout.display = "none"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, controls change without a new picture; it is drawn at the end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.update()

    def clicked(self, act: Callable[[float, float], None]) -> None:
        """Call `act(x, y)` with the point of the picture that is clicked, in its pixels."""
        from ipyevents import Event  # brings its own part for the browser

        self._event = Event(source=self.picture, watched_events=["click"])
        self._event.on_dom_event(lambda event: act(event["dataX"], event["dataY"]))

    def each(self, items: Sequence[Any], what: str) -> Iterator[Any]:
        """The items one by one, with a bar that says how many are done."""
        self.bar.max, self.bar.description, self.bar.tooltip = len(items), what, what
        if len(items) == 1:
            yield items[0]
            return
        for done, item in enumerate(items):
            self.bar.value, self.bar.layout.display = done, None
            yield item
        self.bar.layout.display = "none"


class Explorer:
    """What a call such as `explore.objects()` returns: shown in a notebook, it becomes a `Panel`.

    Args:
        call: as it is written.
        still: a picture of the same thing, below figures/, where nothing can be moved.
        build: makes the panel.
    """

    def __init__(self, call: str, still: str, build: Callable[[], Panel]):
        self.call, self.still, self._build = call, still, build
        self._panel: Panel | None = None

    def open(self) -> Panel:
        """The panel, before its first picture; the same one each time."""
        self._panel = self._panel or self._build()
        return self._panel

    def __repr__(self) -> str:
        return f"{self.call} opens here in JupyterLab; a still of it: figures/{self.still}"

    def _ipython_display_(self) -> None:
        if not watched():
            print(self)
            return
        try:
            panel, picture = self.open(), ROOT / "figures" / self.still
        except Exception as error:  # data or models that are not there
            print(f"{self.call}: {first_line(error)}")
            return
        shown = panel.widget._repr_mimebundle_() | {"text/plain": repr(self)}
        if picture.suffix == ".png" and picture.exists():  # where no kernel runs, this is shown
            shown["image/png"] = base64.b64encode(picture.read_bytes()).decode()
        panel.line.value = "Loading data and models."
        display(shown, raw=True)
        panel.start()


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:400]


def wrong(error: Exception) -> str:
    """The same for a panel."""
    return f'<span role="alert" style="color: #882255">{html.escape(first_line(error))}</span>'


def film(panel: Panel, settings: Iterable[dict[str, Any]], name: str, alt: str) -> None:
    """Write `figures/<name>.gif` under the output folder: a panel as controls move, its text below it.

    Two lines of text are shown, what is beyond is cut off.

    Args:
        panel: what is drawn; it stays as it is.
        settings: of each picture, the controls that are not where they begin; errors are those of drawing.
        alt: what to read where no film is shown.
    """
    begin, frames = {key: control.value for key, control in panel.controls.items()}, []
    for moved in settings:
        pixels, told = panel.draw(**begin | moved)
        image = ImageOps.expand(Image.fromarray(pixels), (0, 0, 0, 2 * TITLE), "white")
        text = textwrap.fill(told, image.width // 7)  # px of a letter
        ImageDraw.Draw(image).text((0, len(pixels) + 4), text, fill="black", font=_font())
        frames.append(np.asarray(image) / 255)
    plots.film(frames, name, alt, 700)


def number(name: str, low: int, high: int, value: int, help: str, *, live: bool = False) -> widgets.IntSlider:
    """A slider of whole numbers; drawn while it moves if `live`, else when it is let go."""
    return _labelled(widgets.IntSlider(value, low, high, continuous_update=live), name, help)


def scale(name: str, low: float, high: float, value: float, help: str) -> widgets.FloatLogSlider:
    """A logarithmic slider."""
    powers = {"min": float(np.log10(low)), "max": float(np.log10(high)), "readout_format": ".2g"}
    return _labelled(widgets.FloatLogSlider(value, continuous_update=False, step=0.05, **powers), name, help)


def choice(name: str, options: Iterable[Any], value: Any, help: str) -> widgets.Dropdown:
    """One of some, or of pairs of a text and a value; the first where the value is none of them."""
    options = list(options)
    values = [option[1] if isinstance(option, tuple) else option for option in options]
    made = widgets.Dropdown(options=options, value=value if value in values else values[0])
    return _labelled(made, name, help, width="auto")


def switch(name: str, value: bool, help: str) -> widgets.Checkbox:
    """On or off."""
    return _labelled(widgets.Checkbox(value, indent=False), name, help, width="auto")


def text(name: str, value: str, help: str) -> widgets.Text:
    """A line that is read when it is finished."""
    return _labelled(widgets.Text(value, placeholder=help, continuous_update=False), name, help)


def button(name: str, help: str, act: Callable[[], None]) -> widgets.Button:
    """Does something."""
    made = widgets.Button(description=name, tooltip=help)
    made.on_click(lambda _: act())
    return made


def upload(name: str, help: str) -> widgets.FileUpload:
    """A file of the user's; `uploaded` gives its bytes."""
    return widgets.FileUpload(description=name, tooltip=help, accept="image/*", multiple=False)


def uploaded(value: Sequence[dict]) -> bytes | None:
    """The bytes of the latest file of an `upload`."""
    return bytes(value[-1]["content"]) if value else None


def _labelled(control: widgets.Widget, name: str, help: str, width: str = "24em") -> widgets.Widget:
    control.description, control.tooltip, control.layout.width = name, help, width
    control.style.description_width = "initial"  # nothing is cut
    return control


def png(pixels: Pixels) -> bytes:
    """Quickly, not small."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def sheet(pictures: dict[str, np.ndarray], columns: int = 4, side: int = SIDE) -> Pixels:
    """Pictures `[H, W, 3]` or `[H, W]`, uint8 or 0..1, under their titles, brought to `side` px at their longest.

    Without matplotlib, which takes ten times as long. `pixel` says what was clicked.
    """
    made = [_brought(picture, side) for picture in pictures.values()]
    width, height = max(m.width for m in made), max(m.height for m in made)
    columns = min(columns, len(made))
    rows = -(-len(made) // columns)
    whole = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + TITLE)), "white")
    pen = ImageDraw.Draw(whole)
    for i, (title, picture) in enumerate(zip(pictures, made, strict=True)):
        x, y = i % columns * (width + GAP), i // columns * (height + TITLE)
        pen.text((x, y + 2), title, fill="black", font=_font())
        whole.paste(picture, (x, y + TITLE))
    return np.asarray(whole)


def pixel(x: float, y: float, size: tuple[int, int], side: int = SIDE) -> tuple[int, int]:
    """Row and column in a picture of `size` (H, W) of the point x, y of a `sheet` of pictures of that size."""
    height, width = (round(s * side / max(size)) for s in size)
    found = (y % (height + TITLE) - TITLE + 0.5) / height, (x % (width + GAP) + 0.5) / width
    return tuple(int(np.clip(f * s, 0, s - 1)) for f, s in zip(found, size, strict=True))


@lru_cache
def _font() -> ImageFont.ImageFont:
    return ImageFont.load_default(13)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture in 0..1 at another size (H, W), every pixel a block."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, picture.shape, strict=False))
    return picture[rows][:, columns]


def _brought(picture: np.ndarray, side: int) -> Image.Image:
    values = np.asarray(picture)
    if values.dtype != np.uint8:
        values = (values.clip(0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(values).convert("RGB")
    factor = side / max(image.size)
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BILINEAR
    return image.resize([max(round(s * factor), 1) for s in image.size], how)


def bars(rows: Sequence[tuple[str, float, int]], most: int = 24) -> Pixels:
    """Names and values under each other as bars, coloured by the third number, such as a seed."""
    rows, line, left, width = rows[:most], 18, 420, 360
    low, high = min(0.0, *(value for _, value, _ in rows)), max(1e-9, *(value for _, value, _ in rows))
    image = Image.new("RGB", (left + width + 80, line * len(rows) + 4), "white")
    pen = ImageDraw.Draw(image)
    for y, (name, value, group) in enumerate(rows):
        start, end = (left + width * (x - low) / (high - low) for x in (0.0, value))
        box = [min(start, end), line * y + 3, max(start, end) + 1, line * y + 15]
        pen.rectangle(box, fill=plots.SLOTS[group % len(plots.SLOTS)])
        pen.text((0, line * y + 1), name[:60], fill="black", font=_font())
        pen.text((box[2] + 6, line * y + 1), f"{value:.4g}", fill="black", font=_font())
    return np.asarray(image)


def lines(series: dict[str, Sequence[tuple[float, float]]], end: float, size: tuple[int, int] = (SIDE, SIDE)) -> Pixels:
    """Curves of points (x in 0..end, y in 0..1) with their names."""
    height, width = size
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle([0, 0, width - 1, height - 1], outline="#bbbbbb")
    for i, (name, points) in enumerate(series.items()):
        at = [(x / end * (width - 1), (1 - min(max(y, 0), 1)) * (height - 1)) for x, y in points]
        if len(at) > 1:
            pen.line(at, fill=plots.SLOTS[(0, 3, 2)[i % 3]], width=2)
        last = f" {points[-1][1]:.2f}" if points else ""
        pen.text((6, height // 3 + 16 * i), name + last, fill=plots.SLOTS[(0, 3, 2)[i % 3]], font=_font())
    return np.asarray(image)


def marked(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """A picture `[H, W, 3]` in 0..1 with a cross over a pixel."""
    picture, colour = picture.copy(), np.array([1.0, 0.0, 0.5])
    reach = max(picture.shape[0] // 20, 2)
    for at in (
        np.s_[max(row - reach, 0) : row + reach + 1, column],
        np.s_[row, max(column - reach, 0) : column + reach + 1],
    ):
        picture[at] = colour
    return picture


def table(frame: Any, most: int = 20) -> str:
    """A table in HTML, its first rows; numbers with three decimals."""
    more = f"<p>{len(frame) - most} more rows</p>" if len(frame) > most else ""
    return frame.head(most).to_html(border=0, float_format=lambda x: f"{x:.4g}", na_rep="-") + more


def slots(runs: dict[str, Any], images: torch.Tensor, still: str) -> Explorer:
    """Models of pixels on images `[N, 3, H, W]`: model, image, mask temperature, and the noise that slots start from.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        runs: of `lib.training`, by name; still: a picture below figures/.
    """

    @torch.no_grad()
    def draw(model: str, index: int, temperature: float, noise: int) -> tuple[Pixels, str]:
        network = runs[model].model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            on = next(network.parameters()).device  # training leaves a model where it ran
            out = network(images[index : index + 1].to(on), temperature)
        row = plots.slot_panels(images[index], out.reconstruction[0], out.masks[0], out.images[0])
        names = ["image", "reconstruction", "masks", *(f"slot {k}" for k in range(len(row) - 3))]
        certain = float(out.masks.amax(1).mean())
        return sheet(dict(zip(names, row, strict=True)), side=160), f"The winning slot has {certain:.2f} of a pixel."

    def build() -> Panel:
        first = next(iter(runs))
        last = runs[first].header["config"]["rules"]["temperature"][1]
        controls = {
            "model": choice("model", runs, first, "which of the trained models"),
            "index": number("image", 0, len(images) - 1, 0, "which of the images"),
            "temperature": scale("temperature", 0.01, 3, last, "of the masks' softmax over slots; low is hard"),
            "noise": number("noise", 0, 20, 0, "from which the slots start"),
        }
        return Panel(draw, controls)

    return Explorer("explore.slots(...)", still, build)
