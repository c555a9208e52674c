"""Makes the MOVi-A stand-in: `render` the scenes, `pack` them into TFRecords, print their `stats`.

    python data/make/movi.py render --scratch DIR      # the environment of requirements.txt; resumes where it stopped
    python data/make/movi.py pack --scratch DIR        # needs lib; writes data/movi_a
    python data/make/movi.py stats                     # needs lib; writes the statistics into data/movi_a/README.md
    python data/make/movi.py twins                     # both steps for the twins below, into cache/movi_twins

A scene depends on its split and index alone: the seed is the split's first seed plus the index, an even index is metal
only and an odd one mixed, and the number of objects runs through `COUNTS`, so the first 16 scenes hold every case once.

Twins are mixed scenes of new seeds in two records each, as drawn and with the two materials swapped: every object is
seen in metal and in rubber, and nothing else differs, the path along which it moves included (that of the first).
They are for notebooks/backbone_comparison.ipynb, too many to ship, and have three frames a record.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from movi_geometry import FRAMES, SEEN, Scene, cast_masks, visibility

HOME = Path(__file__).parents[1] / "movi_a"
SPLITS = {"train": (120, 1000), "validation": (40, 2000), "test": (40, 3000)}  # scenes, first seed
TWINS = {"twins": (200, 5000)}  # records, two a seed
MOMENTS = slice(None, None, 8)  # the frames of twins
COUNTS = (3, 10, 5, 8, 4, 9, 6, 7)  # half a round has the mean of a whole one
LARGEST = 2000  # pixels: an object that fills more of a frame is in the camera's face


def plan(split: str, index: int) -> tuple[int, int, bool]:
    """Seed, number of objects and whether both materials occur, of one scene."""
    count = COUNTS[index // 2 % len(COUNTS)]
    if split in TWINS:
        return TWINS[split][1] + index // 2, count, True
    return SPLITS[split][1] + index, count, index % 2 == 1


def fits(scene: Scene, masks: np.ndarray, mixed: bool) -> bool:
    """Whether a scene shows what it should: see "Which scenes are kept" in the data card."""
    pixels = visibility(masks, len(scene))
    seen = pixels >= SEEN
    materials = (0, 1) if mixed else (0,)
    return bool(
        (seen.sum(0) >= 2).all()
        and all((seen & (scene.material == m)[:, None]).any(0).all() for m in materials)
        and (seen.mean(1) >= 0.5).all()
        and pixels.max() <= LARGEST
    )


def make_scene(split: str, index: int) -> tuple[Scene, np.ndarray, int]:
    """Scene, masks uint8 `[24, 128, 128]` and the number of drafts thrown away; objects sorted by visible pixels.

    Of twins the second has the materials of the first swapped, and both have three frames.
    """
    from movi_physics import draw, simulate

    seed, count, mixed = plan(split, index)
    for attempt in range(200):
        draft = draw(np.random.default_rng([seed, attempt]), count, mixed)
        if draft is None or (mixed and len(set(draft.material.tolist())) == 1):
            continue
        scene = simulate(draft)
        masks = cast_masks(scene)
        if fits(scene, masks, mixed):
            order = np.argsort(-visibility(masks, count).sum(1), kind="stable")  # as Kubric sorts its instances
            rename = np.zeros(count + 1, np.uint8)
            rename[order + 1] = np.arange(1, count + 1)
            scene, masks = scene.take(order), rename[masks]
            if split in TWINS:
                scene, masks = scene.at(MOMENTS), masks[MOMENTS]
                scene = replace(scene, material=1 - scene.material) if index % 2 else scene
            return scene, masks, attempt
    raise RuntimeError(f"{split} scene {index}: 200 drafts and none fits")


def render_all(scratch: Path, splits: dict[str, tuple[int, int]]) -> None:
    """Renders every scene that `scratch` does not hold yet, one .npz a scene."""
    from movi_render import develop, load_mitsuba, render

    scratch.mkdir(parents=True, exist_ok=True)
    print("variant", load_mitsuba().variant(), flush=True)
    for split, (total, _) in splits.items():
        for index in range(total):
            path = scratch / f"{split}-{index:04d}.npz"
            if path.exists():
                continue
            start = time.time()
            scene, masks, drafts = make_scene(split, index)
            seed = plan(split, index)[0]
            frames = np.stack([develop(render(scene, k, seed * FRAMES + k)) for k in range(len(masks))])
            fields = {name: getattr(scene, name) for name in scene.__dataclass_fields__}
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.savez_compressed(file, frames=frames, masks=masks, drafts=drafts, **fields)
            os.replace(part, path)
            print(f"{split} {index} objects {len(scene)} drafts {drafts} {time.time() - start:.1f} s", flush=True)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["render", "pack", "stats", "twins"])
    parser.add_argument("--scratch", type=Path, help="one .npz a scene; default: cache/movi_a or cache/movi_twins")
    parser.add_argument("--split", choices=SPLITS, action="append", help="default: all of them")
    given = parser.parse_args()
    sys.path.insert(0, str(HOME.parents[1]))  # lib, where it is not installed
    cache = HOME.parents[1] / "cache"
    scratch = given.scratch or cache / ("movi_twins" if given.command == "twins" else "movi_a")
    if given.command == "render":
        render_all(scratch, {split: SPLITS[split] for split in given.split or SPLITS})
    elif given.command == "pack":
        from movi_records import pack

        pack(scratch, HOME, SPLITS)
    elif given.command == "twins":
        from movi_records import pack

        render_all(scratch, TWINS)
        pack(scratch, cache / "movi_twins", TWINS)
    else:
        from movi_card import write

        print(write(HOME))


if __name__ == "__main__":
    main()
