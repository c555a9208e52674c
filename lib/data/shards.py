"""Which TFRecord shards a split of MOVi-A has, where each record in them starts, and whether any are missing or cut.

The index is read from the headers of the records alone. Used by lib.data.movi and lib.data.download.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib import ROOT
from lib.data.tfrecord import scan_shard
from lib.files import DataError, parse_json, read_file

#: What lib.data.download writes next to shards: the md5 of each file that was asked for.
CHECKSUMS = "checksums.json"
#: Name of a shard: its split, its number and how many there are.
SHARD = re.compile(r"movi_a-(\w+)\.tfrecord-(\d{5})-of-(\d{5})", re.ASCII)


def find_shards(root: Path, split: str) -> list[Path]:
    """The shards of one split of MOVi-A in `root` itself or in the folders of TensorFlow Datasets below it, sorted.

    Raises DataError where there are none, naming the splits that are there, or where several folders have them.
    """
    found: dict[str, dict[Path, list[Path]]] = {}
    for folder in (root, *root.glob("*x*/*"), *root.glob("movi_a/*x*/*")):
        for path in sorted(folder.glob("movi_a-*")):
            if (match := SHARD.fullmatch(path.name)) and path.exists():  # a dead link is a missing shard
                found.setdefault(match[1], {}).setdefault(folder, []).append(path)
    wanted = found.get(split, {})
    if len(wanted) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in wanted)
        raise DataError(f"{root}: split {split!r} is in several folders ({names}); pass one as root")
    if not wanted:
        there = f"there is {', '.join(sorted(found))}" if found else "there are no movi_a-*.tfrecord-* files"
        get = f"python -m lib.data.download movi_a --split {split if split == 'train' else 'validation'}"
        raise DataError(f"{root}: no split {split!r}; {there}; the stand-in is in data/movi_a, `{get}` gets MOVi-A")
    return next(iter(wanted.values()))


def remedy(paths: list[Path]) -> str:
    """What to do about a damaged set of shards: the end of the sentence that names the damage."""
    folder = paths[0].parent
    get = f"python -m lib.data.download movi_a --split {SHARD.fullmatch(paths[0].name)[1]}"
    if size := re.fullmatch(r"(\d+)x\1", folder.parent.name):
        get += f" --resolution {size[1]}"
    if folder.resolve() == ROOT / "data" / "movi_a":
        get = "git checkout -- data/movi_a"
    return f"get it anew with `{get}`"


def index_shards(paths: list[Path]) -> tuple[list[list[list[int]]], list[str]]:
    """Find all records of one split, and what is wrong with its set of shards.

    Args:
        paths: the shards that exist, of one split and one folder, sorted.

    Returns:
        One list of `[offset, length, crc]` a shard (see `scan_shard`), and one line for each fault: framing that breaks
        off, an empty or missing shard, a number of records that is not the one in dataset_info.json. A shard cut
        exactly between two records shows only in the last.
    """
    folder, names, totals = paths[0].parent, {path.name for path in paths}, {path.name[-5:] for path in paths}
    if len(totals) > 1:
        raise DataError(f"{folder}: shards of different sets, of-{' and '.join(sorted(totals))}; keep one set a folder")
    lengths, total = recorded_lengths(paths[0]), int(totals.pop())
    stem = paths[0].name[:-14]  # after a partial download, what was asked for should be there, else all
    due = {name for name in recorded(folder) if name.startswith(stem)} or {
        f"{stem}{i:05d}-of-{total:05d}" for i in range(total)
    }
    faults = [f"{name}: the shard is missing" for name in sorted(due - names)]
    index = []
    for path in paths:
        records, damage = scan_shard(path)
        index.append(records)
        number = int(path.name[-14:-9])
        if damage:
            faults.append(f"{path.name}: {damage}")
        elif number < len(lengths) and lengths[number] != len(records):
            faults.append(f"{path.name}: {len(records)} records, dataset_info.json says {lengths[number]}")
        elif number >= len(lengths) and not records:
            faults.append(f"{path.name}: the file is empty")
    return index, faults


def recorded(folder: Path) -> dict[str, str]:
    """The md5 of each file that a download asked for, by name; empty where there was none. Raises DataError."""
    return _beside(folder / CHECKSUMS, lambda files: {name: bytes.fromhex(md5).hex() for name, md5 in files.items()})


def recorded_lengths(shard: Path) -> list[int]:
    """Records in each shard of this shard's split by dataset_info.json; empty where that file does not say."""
    split = SHARD.fullmatch(shard.name)[1]
    lengths = _beside(
        shard.with_name("dataset_info.json"),
        lambda info: {s["name"]: [int(n) for n in s.get("shardLengths", [])] for s in info.get("splits", [])},
    )
    return lengths.get(split, [])


def _beside(path: Path, parse: Callable[[Any], dict]) -> dict:
    """What `parse` makes of a file of JSON beside shards, nothing where there is none. Raises DataError."""
    if not path.exists():
        return {}
    content = read_file(path)
    try:
        return parse(parse_json(content))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not a {path.name} of a download ({error}); download it again or delete it") from error
