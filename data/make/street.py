"""Render the StreetHazards stand-in: `python data/make/street.py --work DIR`, then again with `--pack`.

Every frame follows from its town and its number. Frames that exist are not rendered again, so an interrupted run is
simply started once more. `--pack` turns the lossless frames in DIR into the data set, in the layout of the real one.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
#: Split: folder of the part, folder within it, and (town, first seed, number of frames) for each town.
PLAN = {
    "train": ("train", "training", [("t1", 0, 60), ("t2", 0, 60)]),
    "validation": ("train", "validation", [("t1", 1000, 15), ("t2", 1000, 15)]),
    "test": ("test", "test", [("t5", 0, 30), ("t6", 0, 30)]),
}


def frames() -> list[dict]:
    """All frames: split, town, number, seed, and the kind of the anomaly of a test frame."""
    from street_anomalies import KINDS

    out, kinds = [], list(KINDS)
    for split, (_, _, towns) in PLAN.items():
        for town, first, count in towns:
            for i in range(count):
                out.append(dict(split=split, town=town, number=i, seed=first + i))
    for i, frame in enumerate(f for f in out if f["split"] == "test"):
        frame["kind"] = kinds[i % len(kinds)]
    return out


def make(frame: dict, samples: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Picture, label (class indices) and description of one frame."""
    import street_render
    from street_parts import ANOMALY
    from street_scene import compose

    scene = compose(frame["town"], frame["seed"])
    about = dict(scene.about)
    if "kind" in frame:
        parts, placed = _placed(scene, frame)
        scene.parts.extend(parts)
        about |= placed
    picture, label = street_render.render(scene, frame["seed"], samples)
    if "kind" in frame:
        y, x = np.nonzero(label == ANOMALY)
        about |= dict(bbox=[int(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)], pixels=len(x))
    return picture, label, about


def _placed(scene, frame: dict) -> tuple[list, dict]:
    """The best place for the frame's anomaly where next to nothing hides it, and a description."""
    from street_placing import VISIBLE, places
    from street_render import HEIGHT, WIDTH, look

    rng = np.random.default_rng([41, frame["seed"], sum(map(ord, frame["town"]))])
    behind = look(scene.parts, scene.camera)[1]
    for parts, about in places(scene, frame["kind"], rng, WIDTH, HEIGHT):
        seen, distance = look(parts, scene.camera)
        if (distance < behind)[seen > 0].mean() >= VISIBLE:
            return parts, about
    raise RuntimeError(f"no place for a {frame['kind']} in {frame['town']} {frame['seed']}; change its seed in PLAN")


def save(path: Path, image: Image.Image, **options) -> None:
    """Write a picture under a temporary name, then rename it, so that what exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    image.save(temporary, **options)
    os.replace(temporary, path)


def write(path: Path, text: str) -> None:
    """Write a text under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def render_all(work: Path, samples: int, only: str | None, limit: int | None) -> None:
    """Render what is missing in the work folder: NAME.png, NAME.label.png and, last of all, NAME.json."""
    todo = [f for f in frames() if only in (None, f["split"])][:limit]
    for frame in todo:
        name = f"{frame['split']}_{frame['town']}_{frame['number']:03d}"
        if (work / f"{name}.json").exists():
            continue
        start = time.perf_counter()
        picture, label, about = make(frame, samples)
        save(work / f"{name}.png", Image.fromarray(picture), format="PNG")
        save(work / f"{name}.label.png", Image.fromarray(label + np.uint8(1)), format="PNG", optimize=True)
        write(work / f"{name}.json", json.dumps(about))
        print(f"{name}: {time.perf_counter() - start:.1f} s", json.dumps(about), flush=True)


def pack(work: Path, out: Path, quality: int) -> None:
    """Write the data set: JPEG images, PNG labels (ids 1..14), an .odgt for each split, frames.json, making.json."""
    described, fidelity = {}, []
    for split, (part, folder, _) in PLAN.items():
        rows = []
        for frame in (f for f in frames() if f["split"] == split):
            source = f"{split}_{frame['town']}_{frame['number']:03d}"
            picture, label = Image.open(work / f"{source}.png"), Image.open(work / f"{source}.label.png")
            inside = f"{folder}/{frame['town']}/{frame['number']:03d}"
            save(out / part / "images" / f"{inside}.jpg", picture, format="JPEG", quality=quality, optimize=True)
            save(out / part / "annotations" / f"{inside}.png", label, format="PNG", optimize=True)
            rows.append({
                "dbName": "StreetHazards stand-in", "width": picture.width, "height": picture.height,
                "fpath_img": f"images/{inside}.jpg", "fpath_segm": f"annotations/{inside}.png",
            })  # fmt: skip
            kept = np.asarray(Image.open(out / part / "images" / f"{inside}.jpg"), dtype=float)
            fidelity.append(10 * np.log10(255**2 / np.mean((kept - np.asarray(picture)) ** 2)))
            described[f"{part}/images/{inside}.jpg"] = json.loads((work / f"{source}.json").read_text(encoding="utf-8"))
        write(out / part / f"{split}.odgt", json.dumps(rows) + "\n")
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in described.items())
    write(out / "frames.json", f"{{\n{lines}\n}}\n")
    made = dict(width=kept.shape[1], height=kept.shape[0], quality=quality)
    made |= dict(psnr_mean=round(float(np.mean(fidelity)), 2), psnr_min=round(float(np.min(fidelity)), 2))
    write(out / "making.json", json.dumps(made) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--work", type=Path, default=ROOT / "cache" / "street", help="folder for the lossless frames")
    options.add_argument("--split", choices=PLAN, help="only this one")
    options.add_argument("--limit", type=int, help="only so many frames")
    options.add_argument("--samples", type=int, default=8, help="paths a pixel")
    options.add_argument("--pack", action="store_true", help="write the data set from finished frames")
    options.add_argument("--out", type=Path, default=ROOT / "data" / "streethazards")
    options.add_argument("--quality", type=int, default=87, help="of the JPEG images")
    given = options.parse_args()
    if given.pack:
        pack(given.work, given.out, given.quality)
    else:
        render_all(given.work, given.samples, given.split, given.limit)
