"""The statistics in data/movi_a/README.md: counted from the records, never typed."""

import json
import os
import re
from pathlib import Path

import numpy as np
from movi_geometry import COLOURS, MATERIALS, SEEN, SHAPES, SIZE, SIZES
from movi_records import read

MARK = "<!-- statistics: written by `python data/make/movi.py stats`, checked by tests/data/test_make_movi.py -->"
END = "<!-- end of statistics -->"


def count(folder: Path, split: str) -> dict[str, str]:
    """One column of the table: what is counted, and how much of it this split holds."""
    wanted = ["metadata/num_instances", "instances/visibility"]
    wanted += [f"instances/{x}_label" for x in ("shape", "size", "color", "material")]
    scenes = [{key.split("/")[-1]: value for key, value in x.items()} for x in read(folder, split, wanted)]
    sizes = np.array([int(x["num_instances"][0]) for x in scenes])
    pixels = [x["visibility"].reshape(n, -1) for x, n in zip(scenes, sizes, strict=True)]
    seen = [p >= SEEN for p in pixels]
    mixed = np.array([x["material_label"].any() for x in scenes])
    rubber = np.concatenate([x["material_label"] for x, m in zip(scenes, mixed, strict=True) if m])

    def tally(key: str, names: tuple[str, ...]) -> str:
        every = np.bincount(np.concatenate([x[f"{key}_label"] for x in scenes]), minlength=len(names))
        return ", ".join(f"{name} {n}" for name, n in zip(names, every, strict=True))

    def by_size(kind: np.ndarray) -> str:
        return ", ".join(str(n) for n in np.bincount(sizes[kind], minlength=11)[3:])

    shown = np.concatenate([s.ravel() for s in seen])
    areas = np.concatenate([p.ravel() for p in pixels])[shown]
    files = sorted(Path(folder).glob(f"movi_a-{split}.tfrecord-*"))
    return {
        "scenes": f"{len(scenes)}",
        "metal only / mixed": f"{(~mixed).sum()} / {mixed.sum()}",
        "objects": f"{sizes.sum()}",
        "objects a scene, mean": f"{sizes.mean():.2f}",
        "metal-only scenes of 3, 4, … 10 objects": by_size(~mixed),
        "mixed scenes of 3, 4, … 10 objects": by_size(mixed),
        "shapes": tally("shape", SHAPES),
        "sizes": tally("size", SIZES),
        "colours": tally("color", COLOURS),
        "materials": tally("material", MATERIALS),
        "rubber in mixed scenes": f"{rubber.mean():.1%}",
        "foreground pixels": f"{np.mean([p.sum(0).mean() for p in pixels]) / SIZE**2:.1%}",
        f"objects visible (≥ {SEEN} pixels), mean over frames": f"{shown.mean():.1%}",
        "fewest objects visible in any frame": f"{min(s.sum(0).min() for s in seen)}",
        "pixels of a visible object, median": f"{np.median(areas):.0f}",
        "shards, bytes": f"{len(files)}, {sum(f.stat().st_size for f in files):,}",
    }


def table(folder: Path) -> str:
    """The block of the data card, markdown, from the records and from making.json."""
    splits = ("train", "validation", "test")
    columns = [count(folder, split) for split in splits]
    lines = [f"| | {' | '.join(splits)} |", "|---|---|---|---|"]
    lines += [f"| {row} | {' | '.join(column[row] for column in columns)} |" for row in columns[0]]
    made = json.loads((folder / "making.json").read_text())
    total = sum(f.stat().st_size for f in folder.glob("movi_a-*"))
    drafts, jpeg = sum(made["drafts_rejected"].values()), made["jpeg"]
    lines += [
        "",
        f"All shards: {total / 1e6:.1f} MB. Frames are JPEG of quality {jpeg['quality']} without chroma subsampling, "
        f"{jpeg['psnr_mean']:.1f} dB from the rendered ones on average and {jpeg['psnr_min']:.1f} dB at worst; masks "
        f"are lossless. {drafts} drafts were drawn and rejected.",
    ]
    return "\n".join(lines)


def write(folder: Path) -> str:
    """Puts the current table into the card, between its two marks, and returns it."""
    card = folder / "README.md"
    text = card.read_text()
    block = table(folder)
    new, found = re.subn(f"{re.escape(MARK)}.*?{re.escape(END)}", lambda _: f"{MARK}\n{block}\n{END}", text, flags=re.S)
    if found != 1:
        raise ValueError(
            f"{card.name} holds {found} statistics blocks; it needs one, between these lines:\n{MARK}\n{END}"
        )
    part = card.with_suffix(".part")
    part.write_text(new)
    os.replace(part, card)
    return block
