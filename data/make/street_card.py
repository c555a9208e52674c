"""The statistics in data/streethazards/README.md: counted from the files, never typed. Runs in the project's venv."""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from lib.data.streethazards import CLASSES, SPLITS, StreetHazards  # noqa: E402

MARK = "<!-- statistics: written by `python data/make/street_card.py`, checked by tests/data/test_streethazards.py -->"
END = "<!-- end of statistics -->"


def count(root: Path, split: str, described: dict) -> dict[str, str]:
    """One column of the table: what is counted, and how much of it this split holds."""
    data = StreetHazards(root, split)
    statistics = data.statistics()
    labels, images = ([pair[k].stat().st_size for pair in data.pairs] for k in (1, 0))
    about = [described[name] for name in data.names]
    weather = Counter(a["weather"] for a in about)
    rows = {
        "frames": f"{len(data)}",
        "towns": ", ".join(f"{town} ({n})" for town, n in sorted(Counter(data.towns).items())),
        "weather": ", ".join(f"{name} {n}" for name, n in weather.most_common()),
        "images / labels, MB": f"{sum(images) / 1e6:.2f} / {sum(labels) / 1e6:.2f}",
    }
    rows |= {
        f"{name}: % of pixels (frames)": f"{100 * s['share']:.2f} ({s['images']})" for name, s in statistics.items()
    }
    return rows


def anomalies(described: dict) -> list[str]:
    """Sentences on the anomalies: kinds, sizes, distances and what they stand on."""
    found = [a for a in described.values() if "kind" in a]
    kinds, surfaces = Counter(a["kind"] for a in found), Counter(a["surface"] for a in found)
    share = 100 * np.array([a["pixels"] for a in found]) / (640 * 360)
    metres = np.array([a["metres"] for a in found])
    return [
        f"{len(found)} anomalies of {len(kinds)} kinds, one in every test frame: "
        + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())) + ".",
        f"They cover {share.min():.2f} to {share.max():.2f} % of their frame (mean {share.mean():.2f} %, median "
        f"{np.median(share):.2f} %), {metres.min():.1f} to {metres.max():.1f} m from the camera; "
        + " and ".join(f"{n} stand on the {surface}" for surface, n in surfaces.most_common()) + ".",
    ]  # fmt: skip


def table(root: Path) -> str:
    """The block of the data card, markdown, from the images, the labels, frames.json and making.json."""
    described = json.loads((root / "frames.json").read_text(encoding="utf-8"))
    columns = [count(root, split, described) for split in SPLITS]
    lines = [f"| | {' | '.join(SPLITS)} |", "|---|---|---|---|"]
    lines += [f"| {row} | {' | '.join(column[row] for column in columns)} |" for row in columns[0]]
    made = json.loads((root / "making.json").read_text(encoding="utf-8"))
    total = sum(f.stat().st_size for f in root.rglob("*") if f.is_file() and f.name != "README.md")
    lines += ["", *anomalies(described), ""]
    lines.append(
        f"All files: {total / 1e6:.1f} MB. {made['width']} x {made['height']} pixels. Images are JPEG of quality "
        f"{made['quality']}, {made['psnr_mean']:.1f} dB from the rendered ones on average and {made['psnr_min']:.1f} "
        f"dB at worst; labels are lossless. {len(CLASSES)} classes."
    )
    return "\n".join(lines)


def write(root: Path) -> str:
    """Put the current table into the card, between its two marks, and return it."""
    card = root / "README.md"
    block, text = table(root), card.read_text(encoding="utf-8")
    new, found = re.subn(f"{re.escape(MARK)}.*?{re.escape(END)}", lambda _: f"{MARK}\n{block}\n{END}", text, flags=re.S)
    if found != 1:
        raise ValueError(f"{card} holds {found} statistics blocks; it needs one, between these lines:\n{MARK}\n{END}")
    temporary = card.with_name(".README.md.tmp")
    temporary.write_text(new, encoding="utf-8")
    os.replace(temporary, card)
    return block


if __name__ == "__main__":
    print(write(ROOT / "data" / "streethazards"))
