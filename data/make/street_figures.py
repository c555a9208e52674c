"""Pictures of the StreetHazards stand-in, in figures/: a contact sheet of every split, and the figure of the data card.

Runs in the project's venv: `python data/make/street_figures.py`.
"""

import json
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Rectangle
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from lib.data.streethazards import ANOMALY, CLASSES, PALETTE, SPLITS, StreetHazards  # noqa: E402

DATA, FIGURES = ROOT / "data" / "streethazards", ROOT / "figures"
WIDE = {"train": (12, 128), "validation": (6, 160), "test": (6, 192)}  # thumbnails a row, and their width in pixels


def save(name: str, image: Image.Image) -> None:
    """Write figures/NAME, under a temporary name first."""
    FIGURES.mkdir(exist_ok=True)
    temporary = FIGURES / f".{name}.tmp"
    image.convert("RGB").save(temporary, format="JPEG", quality=65, optimize=True, progressive=True)
    os.replace(temporary, FIGURES / name)
    print(name, f"{(FIGURES / name).stat().st_size / 1e6:.2f} MB")


def sheet(split: str) -> None:
    """Every frame of a split; in the test split the anomaly has a red frame."""
    data, (columns, width) = StreetHazards(DATA, split), WIDE[split]
    height = width * 9 // 16
    out = Image.new("RGB", (columns * width, -(-len(data) // columns) * height))
    for i, (path, label) in enumerate(data.pairs):
        picture = np.array(Image.open(path).convert("RGB"))
        y, x = np.nonzero(np.array(Image.open(label)) == ANOMALY + 1)
        if len(x):
            x0, x1, y0, y1 = max(x.min() - 5, 0), x.max() + 6, max(y.min() - 5, 0), y.max() + 6
            for rows, cols in ((slice(y0, y0 + 2), slice(x0, x1)), (slice(y1 - 2, y1), slice(x0, x1)),
                               (slice(y0, y1), slice(x0, x0 + 2)), (slice(y0, y1), slice(x1 - 2, x1))):  # fmt: skip
                picture[rows, cols] = PALETTE[ANOMALY]
        small = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        out.paste(small, (i % columns * width, i // columns * height))
    save(f"streethazards_{split}.jpg", out)


def overview(examples: tuple = (("train", 7), ("train", 76), ("test", 7), ("test", 38)), crops: int = 12) -> None:
    """The figure of the data card: image and label of four towns, a legend, and anomalies up close."""
    described = json.loads((DATA / "frames.json").read_text(encoding="utf-8"))
    figure = plt.figure(figsize=(12, 14.6), dpi=68, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.25, 1))
    axes = top.subplots(4, 3, width_ratios=(1, 1, 1))
    for row, (split, i) in zip(axes, examples, strict=True):
        data = StreetHazards(DATA, split)
        image, label = data[i]
        image, colours = image.permute(1, 2, 0).numpy(), PALETTE[label.numpy()] / 255
        weather = described[data.names[i]]["weather"]
        titles = (f"{split}, town {data.towns[i]}, {weather}", "label", "overlay")
        for axis, picture, title in zip(row, (image, colours, 0.5 * image + 0.5 * colours), titles, strict=True):
            axis.imshow(picture)
            axis.set_title(title, fontsize=9, loc="left")
            axis.axis("off")
    patches = [Patch(facecolor=c / 255, edgecolor="0.5", label=n) for n, c in zip(CLASSES, PALETTE, strict=True)]
    top.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    top.suptitle("StreetHazards stand-in, rendered for this workbook: not the real data", fontsize=11)

    data, kinds = StreetHazards(DATA, "test"), {}
    for i, name in enumerate(data.names):
        about = described[name]
        if about["pixels"] > kinds.get(about["kind"], (0, 0))[0]:
            kinds[about["kind"]] = (about["pixels"], i)
    chosen = sorted(kinds.items(), key=lambda item: -item[1][0])[:crops]
    for axis, (kind, (_, i)) in zip(bottom.subplots(2, crops // 2).ravel(), chosen, strict=True):
        x0, y0, x1, y1 = described[data.names[i]]["bbox"]
        half = max(x1 - x0, y1 - y0) * 0.8
        cx, cy = np.clip((x0 + x1) / 2, half, 640 - half), np.clip((y0 + y1) / 2, half, 360 - half)
        axis.imshow(data[i][0].permute(1, 2, 0).numpy())
        axis.set(xlim=(cx - half, cx + half), ylim=(cy + half, cy - half), xticks=[], yticks=[])
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=PALETTE[ANOMALY] / 255, linewidth=1))
        axis.set_title(kind, fontsize=9)
    bottom.suptitle("Anomalies, in the test split only", fontsize=11)
    figure.canvas.draw()
    save("streethazards_overview.jpg", Image.fromarray(np.asarray(figure.canvas.buffer_rgba())))
    plt.close(figure)


if __name__ == "__main__":
    for name in SPLITS:
        sheet(name)
    overview()
