"""Pictures of the MOVi-A stand-in in figures/: a contact sheet of every split, and one figure of the dataset.

python data/make/movi_figures.py        # in the project's environment; reads data/movi_a
"""

import io
import os

import numpy as np
from matplotlib import pyplot as plt
from movi_geometry import COLOURS, MATERIALS, SHAPES
from movi_records import read
from PIL import Image, ImageDraw

from lib import ROOT
from lib.plots import SLOTS

HOME, FIGURES = ROOT / "data" / "movi_a", ROOT / "figures"
PALETTE = np.array([(0, 0, 0), *[tuple(bytes.fromhex(c[1:])) for c in SLOTS]], np.uint8)
SHEETS = {"train": ([12], 15), "validation": ([2, 12, 22], 10), "test": ([2, 12, 22], 10)}  # frames, scenes a row


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


def sheet(split: str, side: int = 96) -> Image.Image:
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


def overview(names: tuple[str, ...] = ("test-3002", "test-3007", "test-3001"), frames=(0, 5, 10, 15, 20)) -> plt.Figure:
    """Scenes over time, the last frame once more with outlined masks and the name of every object."""
    wanted = ["video", "segmentations", "metadata/video_name", "instances/image_positions"]
    wanted += [f"instances/{x}_label" for x in ("material", "color", "shape")]
    scenes = {x["metadata/video_name"][0].decode(): x for x in read(HOME, "test", wanted)}
    ratios = [1] * len(frames) + [2]
    figure, axes = plt.subplots(
        len(names), len(frames) + 1, figsize=(11.5, 3.45 * len(names) / 2 + 0.4), width_ratios=ratios, squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        scene = scenes[name]
        last = decode(scene["video"], [frames[-1]])[0], decode(scene["segmentations"], [frames[-1]])[0]
        for axis, picture in zip(row, [*decode(scene["video"], list(frames)), outlined(*last, scale=4)], strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
        n = len(scene["instances/shape_label"])
        spots = scene["instances/image_positions"].reshape(n, -1, 2)[:, frames[-1]] * 512
        for i in range(n):
            if not (last[1] == i + 1).any():
                continue
            kind = MATERIALS[scene["instances/material_label"][i]]
            colour = COLOURS[scene["instances/color_label"][i]]
            row[-1].annotate(
                f"{kind}\n{colour} {SHAPES[scene['instances/shape_label'][i]]}", spots[i], ha="center", va="center",
                fontsize=5.5, color="white", bbox={"facecolor": "black", "alpha": 0.55, "pad": 1, "linewidth": 0},
                clip_on=True,
            )  # fmt: skip
    for axis, frame in zip(axes[0], frames, strict=False):
        axis.set_title(f"frame {frame}", fontsize=9)
    axes[0, -1].set_title(f"frame {frames[-1]}, masks and names", fontsize=9)
    figure.suptitle("MOVi-A stand-in (not MOVi-A): rendered, 128 × 128, 12 frames a second", fontsize=10)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.9, 0.03, 0.04)
    return figure


def save(picture: Image.Image, name: str) -> None:
    """Writes figures/`name`.png in 256 colours, whole or not at all."""
    part = FIGURES / f"{name}.part"
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(part, format="PNG", optimize=True)
    os.replace(part, FIGURES / f"{name}.png")
    print(name, picture.size, f"{(FIGURES / f'{name}.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    for split in SHEETS:
        save(sheet(split), f"movi_a_{split}")
    buffer = io.BytesIO()
    overview().savefig(buffer, dpi=170)
    save(Image.open(buffer), "movi_a_overview")
