"""Figures: one slot palette everywhere, masks over images, a panel a slot, film strips and curves.

The palette is Paul Tol's (his "muted" scheme, then "bright"), safe for colour-blind readers; slot k has the same colour
in every figure of the workbook. Introduced in notebooks/ex_slot1.ipynb.
"""

import base64
import html
import inspect
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import display
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor

from lib import files, results

#: Slot k's colour; from the 14th slot on they come again, darker each time.
SLOTS = (
    "#332288", "#DDCC77", "#44AA99", "#CC6677", "#88CCEE", "#AA4499", "#117733",
    "#EE7733", "#0077BB", "#BBBBBB", "#999933", "#882255", "#EE3377",
)  # fmt: skip
SLOT_RGB = np.array([to_rgb(c) for c in SLOTS])
LIMIT = 300_000  # bytes a committed figure may have
COLOURS = 80  # of a figure; the 256 that a palette could hold make larger files, which look no better


def rgb(image: Tensor) -> np.ndarray:
    """An image `[3, H, W]` in 0..1 as matplotlib shows it, `[H, W, 3]`."""
    return image.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()


def overlay(image: Tensor, masks: Tensor, strength: float = 0.65) -> np.ndarray:
    """Winner-takes-all masks `[K, H, W]` in slot colours over a greyed image `[3, H, W]`: `[H, W, 3]` in 0..1."""
    grey = rgb(image).mean(-1, keepdims=True)
    again, slot = np.divmod(masks.detach().cpu().argmax(0).numpy(), len(SLOTS))
    return (1 - strength) * grey + strength * SLOT_RGB[slot] * 0.7 ** again[..., None]


def labels(ids: Tensor) -> np.ndarray:
    """Ids `[H, W]` to `[H, W, 3]`: background black, object i in slot colour i+1."""
    ids = ids.cpu().numpy().astype(int)
    return SLOT_RGB[ids % len(SLOTS)] * (ids != 0)[..., None]


def grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), names: Sequence[str] = ()) -> Figure:
    """Images in rows and columns, a title a column and a name a row; 2-D arrays are shown in grey, 0..1."""
    height, width = len(rows), max(len(r) for r in rows)
    figure, axes = plt.subplots(height, width, figsize=(1.35 * width + 0.4, 1.35 * height + 0.3), squeeze=False)
    for y, row in enumerate(rows):
        for x, axis in enumerate(axes[y]):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if x < len(row):
                axis.imshow(row[x], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if y == 0 and x < len(titles):
                axis.set_title(titles[x], fontsize=9)
            if x == 0 and y < len(names):
                axis.set_ylabel(names[y], fontsize=9)
    figure.tight_layout(pad=0.4)
    return figure


def slot_panels(image: Tensor, reconstruction: Tensor, masks: Tensor, of_slots: Tensor) -> list[np.ndarray]:
    """One row for `grid`: image, reconstruction, overlay, then the image that each slot makes, through its mask."""
    shown = [rgb(image), rgb(reconstruction), overlay(image, masks)]
    return shown + [rgb(x * m + (1 - m)) for x, m in zip(of_slots, masks, strict=True)]


def components(tokens: Tensor) -> np.ndarray:
    """First three principal components of standardised tokens `[n, N, C]`, as colours `[n, N, 3]` in 0..1."""
    flat = ((tokens - tokens.mean((0, 1))) / (tokens.std((0, 1)) + 1e-6)).flatten(0, 1).cpu().numpy()
    axes = PCA(3).fit(flat).components_
    colours = flat @ (axes.T * np.sign(axes.sum(1)))
    low, high = np.quantile(colours, (0.02, 0.98), axis=0)
    return ((colours - low) / (high - low)).clip(0, 1).reshape(*tokens.shape[:2], 3)


def curves(
    axis: plt.Axes, histories: dict[str, list[list[dict[str, float]]]], metric: str, ylabel: str, log: bool = False
) -> None:
    """Mean over seeds of one metric against steps, a line a configuration, with a band of one standard deviation."""
    colours = cycle(SLOTS[i] for i in (0, 3, 2, 1, *range(4, len(SLOTS))))
    for colour, (name, runs) in zip(colours, histories.items(), strict=False):
        steps = [row["step"] for row in runs[0] if metric in row]
        values = np.array([[row[metric] for row in run if metric in row] for run in runs])
        mean, sd = values.mean(0), values.std(0, ddof=1) if len(runs) > 1 else 0
        axis.plot(steps, mean, color=colour, label=name)
        axis.fill_between(steps, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
    axis.set(xlabel="optimiser steps", ylabel=ylabel, yscale="log" if log else "linear")
    axis.grid(alpha=0.3)


def forest(
    table: pd.DataFrame, panels: Sequence[str] = (), label: str = "difference", colours: Mapping[str, str] | None = None
) -> Figure:
    """Effects with their 95 % intervals, one below the other; filled where the interval leaves zero out.

    Args:
        table: `difference` or `effect`, `low` and `high`, of `metrics.intervals`.
        panels: a panel each, of the rows "<name>, <panel>"; without, all rows are in one.
        label: of the axis, after the panel's name.
        colours: of rows, by name.
    """
    parts = {p: table[table.index.str.endswith(f", {p}")].rename(lambda n, p=p: n[: -len(p) - 2]) for p in panels}
    parts = parts or {"": table}
    names = list(dict.fromkeys(name for part in parts.values() for name in part.index))
    size = (2.4 + 2.6 * len(parts), 0.28 * len(names) + 0.9)
    figure, axes = plt.subplots(1, len(parts), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axis, (panel, part) in zip(axes[0], parts.items(), strict=True):
        for name, row in part.rename(columns={"effect": "difference"}).iterrows():
            y, colour = names.index(name), (colours or {}).get(name, SLOTS[0])
            axis.plot([row["low"], row["high"]], [y, y], color=colour)
            sure = row["low"] > 0 or row["high"] < 0
            axis.plot(row["difference"], y, "o", color=colour, markerfacecolor=colour if sure else "white")
        axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
        axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        axis.set_xlabel(f"{panel} {label}, 95 %".strip(), fontsize=9)
        axis.grid(alpha=0.3, axis="x")
    return figure


def save(figure: Figure, name: str) -> None:
    """Write `figures/<name>.png` under the output folder, show these very bytes in the notebook, and close the figure.

    Of `COLOURS` colours where that makes the file smaller, which is nearly always.
    """
    drawn, fewer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    plt.close(figure)  # else the notebook would draw it a second time
    _fewer_colours(Image.open(drawn).convert("RGB")).save(fewer, "PNG", optimize=True)
    content = min(drawn.getvalue(), fewer.getvalue(), key=len)
    _write(name, "png", content)
    display.display(display.Image(content))


def _fewer_colours(image: Image.Image) -> Image.Image:
    """`COLOURS` of them. Rare ones, such as one slot's, survive: median cut, Pillow's default, merges them."""
    if image.getcolors(1 << 15):
        return image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1)
    # That takes ten seconds where photographs have 100,000 colours: let every fourth pixel choose.
    palette = image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST)
    palette = palette.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1)
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def source(*things: Callable | type) -> None:
    """Show the code that runs, highlighted: a function, method or class as it stands in `lib`."""
    for thing in things:  # as Markdown: each `display.Code` brings a style sheet of its own, and LaTeX
        display.display(display.Markdown(f"```python\n{textwrap.dedent(inspect.getsource(thing))}```"))


def film(frames: Sequence[np.ndarray], name: str, alt: str, pause: int = 120) -> None:
    """Write `figures/<name>.gif` under the output folder from images `[H, W, 3]` in 0..1, `pause` ms each, and show it.

    One palette for all frames: no colour changes from frame to frame. Shown as HTML with `alt` in place of the film
    where no images are shown: of a bare image/gif, nbconvert shows only the name of the object.
    """
    pixels = np.stack([(f * 255).round().astype(np.uint8) for f in frames])
    _, height, width, _ = pixels.shape
    strip, buffer = _fewer_colours(Image.fromarray(pixels.reshape(-1, width, 3))), io.BytesIO()
    first, *others = (strip.crop((0, y, width, y + height)) for y in range(0, strip.height, height))
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=pause, loop=0)
    _write(name, "gif", buffer.getvalue())
    data = base64.b64encode(buffer.getvalue()).decode()
    tag = f'<img src="data:image/gif;base64,{data}" alt="{html.escape(alt)}" width="{3 * width // 2}">'
    display.display({"text/html": tag, "text/plain": alt}, raw=True)


def _write(name: str, suffix: str, content: bytes) -> None:
    """Write `figures/<name>.<suffix>` under the output folder; two replays may draw the same figure at once."""
    if len(content) > LIMIT:  # no reason to lose the training before it
        print(f"figure {name} has {len(content)} bytes, a committed one may have {LIMIT}; show less or make it smaller")
    files.write(results.out() / "figures" / f"{name}.{suffix}", content)
