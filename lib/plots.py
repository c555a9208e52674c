"""Figures: one slot palette everywhere, masks over pictures, a panel a slot, film strips and curves.

The palette is Paul Tol's (his "muted" scheme, then "bright"), safe for colour-blind readers; slot k has the same colour
in every figure of the workbook. Introduced in notebooks/ex_slot1.ipynb.
"""

import io
import os
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import display
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lib import results

#: Slot k's colour; 13 slots are the most any notebook uses.
SLOTS = (
    "#332288", "#DDCC77", "#44AA99", "#CC6677", "#88CCEE", "#AA4499", "#117733",
    "#EE7733", "#0077BB", "#BBBBBB", "#999933", "#882255", "#EE3377",
)  # fmt: skip
SLOT_MAP = ListedColormap([to_rgb(c) for c in SLOTS])
LIMIT = 300_000  # bytes a figure may have


def picture(image: Tensor) -> np.ndarray:
    """`[3, H, W]` in 0..1 to what matplotlib shows, `[H, W, 3]`."""
    return image.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()


def overlay(image: Tensor, masks: Tensor, strength: float = 0.65) -> np.ndarray:
    """Winner-takes-all masks `[K, H, W]` in slot colours over a greyed picture `[3, H, W]`: `[H, W, 3]` in 0..1."""
    grey = picture(image).mean(-1, keepdims=True)
    colours = np.array(SLOT_MAP.colors)[masks.detach().cpu().argmax(0).numpy()]
    return (1 - strength) * grey + strength * colours


def labels(ids: Tensor) -> np.ndarray:
    """Ids `[H, W]` to `[H, W, 3]`: background black, object i in slot colour i+1."""
    ids = ids.cpu().numpy().astype(int)
    colours = np.vstack([np.zeros(3), np.array(SLOT_MAP.colors)[1:], np.array(SLOT_MAP.colors)[:1]])
    return colours[np.where(ids == 0, 0, (ids - 1) % (len(colours) - 1) + 1)]


def match(masks: Tensor, reference: Tensor) -> Tensor:
    """Reorder masks `[K, ...]` so that slot k is the one most like slot k of the reference: equal colours, equal slots.

    For looking only: no measure is taken on masks reordered here.
    """
    a, b = reference.flatten(1).double(), masks.flatten(1).double()
    rows, columns = linear_sum_assignment(-(a @ b.T).numpy())
    return masks[torch.as_tensor(columns[np.argsort(rows)])]


def grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), names: Sequence[str] = ()) -> Figure:
    """Pictures in rows and columns, a title a column and a name a row; 2-D arrays are shown in grey, 0..1."""
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


def slot_panels(image: Tensor, reconstruction: Tensor, masks: Tensor, pictures: Tensor) -> list[np.ndarray]:
    """One row for `grid`: picture, reconstruction, overlay, then every slot's picture through its mask."""
    shown = [picture(image), picture(reconstruction), overlay(image, masks)]
    return shown + [picture(p * m + (1 - m)) for p, m in zip(pictures, masks, strict=True)]


def components(tokens: Tensor) -> np.ndarray:
    """First three principal components of standardised tokens `[n, N, C]`, as colours `[n, N, 3]` in 0..1."""
    flat = (tokens - tokens.mean((0, 1))) / (tokens.std((0, 1)) + 1e-6)
    _, axes = torch.linalg.eigh(flat.flatten(0, 1).T.double() @ flat.flatten(0, 1).double())  # the largest come last
    axes = axes[:, -3:].flip(1).float()
    colours = flat @ (axes * axes.sum(0).sign())
    low, high = colours.flatten(0, 1).quantile(0.02, 0), colours.flatten(0, 1).quantile(0.98, 0)
    return ((colours - low) / (high - low)).clamp(0, 1).numpy()


def curves(
    axis: plt.Axes, histories: dict[str, list[list[dict[str, float]]]], metric: str, ylabel: str, log: bool = False
) -> None:
    """Mean over seeds of one metric against steps, a line a configuration, with a band of one standard deviation."""
    for colour, (name, runs) in zip(
        (*SLOTS[:1], *SLOTS[3:4], *SLOTS[2:3], *SLOTS[1:2]), histories.items(), strict=False
    ):
        steps = [row["step"] for row in runs[0] if metric in row]
        values = np.array([[row[metric] for row in run if metric in row] for run in runs])
        mean, sd = values.mean(0), values.std(0, ddof=1) if len(runs) > 1 else 0
        axis.plot(steps, mean, color=colour, label=name)
        axis.fill_between(steps, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
    axis.set(xlabel="optimiser steps", ylabel=ylabel, yscale="log" if log else "linear")
    axis.grid(alpha=0.3)


def save(figure: Figure, name: str) -> None:
    """Write `figures/<name>.png` under the output folder, show these very bytes in the notebook, and close the figure.

    Of 256 colours where that makes the file smaller, which is nearly always.

    Raises:
        ValueError: the picture has more than 300 KB; make it smaller or show less.
    """
    drawn, fewer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    plt.close(figure)  # else the notebook would draw it a second time
    _fewer_colours(Image.open(drawn).convert("RGB")).save(fewer, "PNG", optimize=True)
    content = min(drawn.getvalue(), fewer.getvalue(), key=len)
    if len(content) > LIMIT:
        raise ValueError(f"figure {name} has {len(content)} bytes, the limit is {LIMIT}; make it smaller or show less")
    _write(name, "png", content)
    display.display(display.Image(content))


def _fewer_colours(picture: Image.Image) -> Image.Image:
    """256 colours. Rare ones, such as one slot's, survive: median cut, Pillow's default, gives them to neighbours."""
    if picture.getcolors(1 << 15):
        return picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
    # That takes ten seconds where photographs have 100,000 colours: let every fourth pixel choose.
    some = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST)
    palette = some.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def film(frames: Sequence[np.ndarray], name: str, milliseconds: int = 120) -> bytes:
    """Write `figures/<name>.gif` under the output folder from pictures `[H, W, 3]` in 0..1, and return its bytes.

    Raises:
        ValueError: the film is too large; show fewer or smaller frames.
    """
    pictures = [Image.fromarray((f * 255).round().astype(np.uint8)).quantize(32) for f in frames]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    if len(buffer.getvalue()) > LIMIT:
        raise ValueError(f"film {name} has {len(buffer.getvalue())} bytes, the limit is {LIMIT}; show less")
    _write(name, "gif", buffer.getvalue())
    return buffer.getvalue()


def _write(name: str, suffix: str, content: bytes) -> None:
    """Write `figures/<name>.<suffix>` under the output folder; two replays may draw the same figure at once."""
    path = results.out() / "figures" / f"{name}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.{suffix}")
    temporary.write_bytes(content)
    temporary.replace(path)
