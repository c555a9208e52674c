"""Pictures of the MOVi-A stand-in in figures/: a contact sheet of every split, and one figure of the dataset.

python data/make/movi_figures.py        # in the project's environment; reads data/movi_a
python data/make/movi_figures.py twins  # of the twins in the cache alone
"""

import io
import os
import sys

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke
from movi_geometry import MATERIALS, SEEN
from movi_records import read
from PIL import Image, ImageDraw

from lib import ROOT
from lib.plots import SLOTS

HOME, FIGURES = ROOT / "data" / "movi_a", ROOT / "figures"
PALETTE = np.array([(0, 0, 0), *[tuple(bytes.fromhex(c[1:])) for c in SLOTS]], np.uint8)
SHEETS = {"train": ([12], 15), "validation": ([2, 12, 22], 5), "test": ([2, 12, 22], 5)}  # frames, scenes a row


def decode(images: list[bytes], frames: list[int]) -> list[np.ndarray]:
    """The images of some frames of a record."""
    return [np.asarray(Image.open(io.BytesIO(images[k]))) for k in frames]


def outlined(frame: np.ndarray, mask: np.ndarray, scale: int = 2) -> np.ndarray:
    """A frame enlarged `scale` times, with the border of every mask drawn one pixel wide inside it."""
    big = np.asarray(Image.fromarray(frame).resize([scale * n for n in frame.shape[1::-1]], Image.Resampling.BICUBIC))
    ids = np.pad(mask.repeat(scale, 0).repeat(scale, 1), 1, mode="edge")
    inner = ids[1:-1, 1:-1]
    near = (ids[:-2, 1:-1], ids[2:, 1:-1], ids[1:-1, :-2], ids[1:-1, 2:])
    border = (inner > 0) & np.any([n != inner for n in near], 0)
    return np.where(border[..., None], PALETTE[inner], big)


def sheet(split: str, side: int = 80) -> Image.Image:
    """Every scene of a split: its name, some frames, and the masks of each under it."""
    frames, columns = SHEETS[split]
    scenes = list(read(HOME, split, ["video", "segmentations", "metadata/video_name", "instances/material_label"]))
    width, height = len(frames) * side + 4, 2 * side + 14
    page = Image.new("RGB", (columns * width, -(-len(scenes) // columns) * height), "white")
    draw = ImageDraw.Draw(page)
    for k, scene in enumerate(scenes):
        x, y = k % columns * width, k // columns * height
        mixed = "mixed" if scene["instances/material_label"].any() else "metal"
        draw.text((x, y), f"{scene['metadata/video_name'][0].decode().split('-')[1]} {mixed}", fill="black")
        pairs = zip(decode(scene["video"], frames), decode(scene["segmentations"], frames), strict=True)
        for c, (frame, mask) in enumerate(pairs):
            picture = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
            page.paste(picture, (x + c * side, y + 12))
            page.paste(Image.fromarray(PALETTE[mask]).resize((side, side), 0), (x + c * side, y + 12 + side))
    return page


def overview(names: tuple[str, ...] = ("test-3030", "test-3003", "test-3035"), frames=(1, 6, 11, 16, 22)) -> plt.Figure:
    """Scenes over time, frames above masks; one frame of each large, with outlines and the material of every object."""
    wanted = ["video", "segmentations", "metadata/video_name", "instances/material_label"]
    scenes = {x["metadata/video_name"][0].decode(): x for x in read(HOME, "test", wanted)}
    middle = len(frames) // 2
    figure = plt.figure(figsize=(10.5, 3.02 * len(names) + 0.5))
    layout = figure.add_gridspec(
        2 * len(names), 2 + len(frames), left=0.005, right=0.995, bottom=0.005, top=0.93, wspace=0.03, hspace=0.03
    )
    for k, name in enumerate(names):
        pictures = decode(scenes[name]["video"], list(frames))
        masks = decode(scenes[name]["segmentations"], list(frames))
        large = figure.add_subplot(layout[2 * k : 2 * k + 2, :2])
        large.imshow(outlined(pictures[middle], masks[middle], scale=4))
        for i, material in enumerate(scenes[name]["instances/material_label"]):
            rows, columns = np.nonzero(masks[middle] == i + 1)
            if len(rows) >= SEEN:
                large.text(
                    4 * columns.mean(), 4 * rows.mean(), MATERIALS[material][0].upper(), ha="center", va="center",
                    fontsize=9, color="white", path_effects=[withStroke(linewidth=2, foreground="black")],
                )  # fmt: skip
        axes = [large]
        for c, frame in enumerate(frames):
            for r, picture in enumerate((pictures[c], PALETTE[masks[c]])):
                axes.append(figure.add_subplot(layout[2 * k + r, 2 + c]))
                axes[-1].imshow(picture, interpolation="nearest")
            if k == 0:
                axes[-2].set_title(f"frame {frame}", fontsize=9)
        for axis in axes:
            axis.set_axis_off()
        if k == 0:
            large.set_title(f"frame {frames[middle]}: M metal, R rubber", fontsize=9)
    figure.suptitle("MOVi-A stand-in (not MOVi-A)", fontsize=11, y=0.99)
    return figure


def twins(scenes: tuple[int, ...] = (2, 3, 11, 15), frame: int = 1, side: int = 192) -> Image.Image:
    """One frame of some twins: as drawn above, with the materials swapped below; 192 px a frame, unlabelled."""
    records = list(read(ROOT / "cache" / "movi_twins", "twins", ["video"]))
    page = Image.new("RGB", (len(scenes) * (side + 4) - 4, 2 * side + 4), "white")
    for column, scene in enumerate(scenes):
        for row in (0, 1):
            (picture,) = decode(records[2 * scene + row]["video"], [frame])
            big = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
            page.paste(big, (column * (side + 4), row * (side + 4)))
    return page


def save(picture: Image.Image, name: str) -> None:
    """Writes figures/`name`.jpg, whole or not at all."""
    part = FIGURES / f"{name}.part"
    picture.convert("RGB").save(part, format="JPEG", quality=65, optimize=True, progressive=True)
    os.replace(part, FIGURES / f"{name}.jpg")
    print(name, picture.size, f"{(FIGURES / f'{name}.jpg').stat().st_size:,} bytes")


if __name__ == "__main__":
    if sys.argv[1:] == ["twins"]:
        save(twins(), "movi_twins")
        sys.exit()
    for split in SHEETS:
        save(sheet(split), f"movi_a_{split}")
    buffer = io.BytesIO()
    overview().savefig(buffer, dpi=82)
    save(Image.open(buffer), "movi_a_overview")
