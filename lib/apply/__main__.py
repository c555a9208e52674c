"""Masks, or anomaly scores, of your files: `python -m lib.apply FOLDER --out FOLDER`."""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from lib import files
from lib.apply import scenes, zoo
from lib.data import clips
from lib.files import DataError


def write(source: Path, name: str, out: Path, options: argparse.Namespace) -> None:
    """Masks or scores of a source as `out`/`name`.png or .npz; of a video in a folder of that name, a file a frame."""
    if zoo.is_of_streets(zoo.run_of(options.model, options.device, False)[0]):
        from lib.apply.streets import anomaly_of  # whose libraries take seconds to import

        found = anomaly_of(source, options.model, device=options.device)
        parts = [{"npz": scenes.npz(anomaly=f)} for f in (found if found.ndim == 3 else [found])]
    else:
        how = {"slots": options.slots, "threshold": options.threshold, "device": options.device}
        found = scenes.masks_of(source, options.model, **how)
        each = found if found.ndim == 4 else [found]
        parts = [{"png": scenes.png(soft.argmax(0)), "npz": scenes.npz(masks=soft.astype(np.float16))} for soft in each]
        parts = parts if options.soft else [{"png": part["png"]} for part in parts]
    names = [name]
    if source.is_dir():
        names = [f"{name}/{each}" for each in named(clips.images_in(source))]
    elif len(parts) > 1:
        names = [f"{name}/{t:04d}" for t in range(1, len(parts) + 1)]
    for stem, part in zip(names, parts, strict=True):
        for suffix, content in part.items():
            files.write(out / f"{stem}.{suffix}", content)


def named(paths: list[Path]) -> list[str]:
    """Names without suffix where these differ, else the whole ones."""
    stems = [path.stem for path in paths]
    return [path.stem if stems.count(path.stem) == 1 else path.name for path in paths]


def writable(out: Path, source: Path) -> Path:
    """The folder for what is written. Raises Wrong where it cannot be written, or holds the source."""
    inside = source if source.is_dir() else source.parent
    if out.resolve() == inside.resolve():
        raise zoo.Wrong(f"--out {out} holds the images themselves; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise zoo.Wrong(f"cannot write to --out {out}: {error.strerror}") from None
    return out


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 0 if all was written, 1 if a file could not be used, 2 if refused."""
    parser = argparse.ArgumentParser(prog="python -m lib.apply", description="Masks or anomaly scores of your images.")
    parser.add_argument("source", nargs="?", type=Path, help="an image, an animation, or a folder of images")
    parser.add_argument("--out", type=Path, help="folder for NAME.png: which slot wins each pixel (scores: NAME.npz)")
    parser.add_argument("--model", default="ex_dino4", help="see --list; default ex_dino4")
    parser.add_argument("--video", action="store_true", help="the images of the folder are the frames of one video")
    parser.add_argument("--slots", type=int, help="how many; as trained if not given")
    parser.add_argument("--threshold", type=float, help="of merging slots, 0 merges none; as measured if not given")
    parser.add_argument("--soft", action="store_true", help="also NAME.npz: the masks themselves, float16 [K, H, W]")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--list", action="store_true", help="show the models")
    options = parser.parse_args(arguments)
    if options.list:
        print(zoo.table().to_string())
        return 0
    try:
        source, out = options.source, options.out
        if source is None or out is None:
            raise zoo.Wrong("give an image or a folder, and --out FOLDER; --list shows the models")
        if not source.exists():
            raise zoo.Wrong(f"{source} does not exist; give an image or a folder")
        paths = clips.images_in(source) if source.is_dir() and not options.video else [source]
        out, model = writable(out, source), zoo.run_of(options.model, options.device, options.video)[1]
    except (DataError, ValueError, RuntimeError) as error:
        print(f"lib.apply: {error}", file=sys.stderr)
        return 2
    failed = 0
    for path, name in zip(tqdm(paths, disable=None), named(paths), strict=True):
        try:
            write(path, name, out, options)
        except (OSError, ValueError, RuntimeError) as error:
            failed += 1
            tqdm.write(f"lib.apply: {error}", file=sys.stderr)
    print(f"{model}: {len(paths) - failed} of {len(paths)} written to {out}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
