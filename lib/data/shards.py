"""Which TFRecord shards a split has, where each record in them starts, and whether any are missing or cut.

The index is read from the headers of the records alone.
Used by lib.data.movi.
"""

import re
from pathlib import Path

from lib import ROOT
from lib.data.tfrecord import scan_shard
from lib.files import DataError, parse_json, read_file

#: What lib.data.download writes next to shards: for each file that was asked for, its size in bytes and its md5.
CHECKSUMS = "checksums.json"


def shard_splits(folder: Path, name: str) -> dict[str, list[Path]]:
    """The shards `<name>-<split>.tfrecord-NNNNN-of-NNNNN` in a folder, sorted, by split."""
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{name}-*.tfrecord-*-of-*")):
        match = re.fullmatch(rf"{name}-(\w+)\.tfrecord-\d{{5}}-of-\d{{5}}", path.name)
        if match and path.exists():  # a dead link is a missing shard
            splits.setdefault(match[1], []).append(path)
    return splits


def find_shards(root: Path, split: str) -> list[Path]:
    """The shards of one split of MOVi-A in `root` itself or in the folders of TensorFlow Datasets below it.

    Raises DataError where there are none, naming the splits that are there, or where several folders have them.
    """
    folders = (root, *root.glob("*x*/*"), *root.glob("movi_a/*x*/*"))
    found = {folder: splits for folder in folders if (splits := shard_splits(folder, "movi_a"))}
    wanted = [folder for folder, splits in found.items() if split in splits]
    if len(wanted) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in wanted)
        raise DataError(f"{root}: split {split!r} is in several folders ({names}); pass one as root")
    if not wanted:
        splits = sorted({name for splits in found.values() for name in splits})
        there = f"there is {', '.join(splits)}" if splits else "there are no movi_a-*.tfrecord-* files"
        get = f"python -m lib.data.download movi_a --split {split if split == 'train' else 'validation'}"
        raise DataError(f"{root}: no split {split!r}; {there}; the stand-in is in data/movi_a, `{get}` gets MOVi-A")
    return found[wanted[0]][split]


def remedy(paths: list[Path]) -> str:
    """What to do about a damaged set of shards: the end of the sentence that names the damage."""
    folder, split = paths[0].parent, paths[0].name.split(".")[0].rpartition("-")[2]
    get = f"python -m lib.data.download movi_a --split {split}"
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
        off, an empty or missing shard, a size that is not the recorded one, a number of records that is not the one in
        dataset_info.json. A shard cut exactly between two records shows only in the last two.
    """
    faults = _missing(paths)
    lengths = recorded_lengths(paths[0])
    asked = recorded(paths[0].parent)
    index = [scan_shard(path) for path in paths]
    for path, (records, damage) in zip(paths, index, strict=True):
        number = int(path.name[-14:-9])
        expected = lengths[number] if number < len(lengths) else None
        size = path.stat().st_size
        if damage:
            faults.append(f"{path.name}: {damage}")
        elif path.name in asked and asked[path.name]["size"] != size:
            faults.append(f"{path.name}: {size} bytes, {CHECKSUMS} says {asked[path.name]['size']}")
        elif expected not in (None, len(records)):
            faults.append(f"{path.name}: {len(records)} records, dataset_info.json says {expected}")
        elif expected is None and not records:
            faults.append(f"{path.name}: the file is empty")
    return [records for records, _ in index], faults


def _missing(paths: list[Path]) -> list[str]:
    """Lines for shards that should be there. After a partial download that is what was asked for, else all of NNNNN."""
    totals = {path.name[-5:] for path in paths}
    if len(totals) > 1:
        counts = " and ".join(sorted(totals))
        raise DataError(f"{paths[0].parent}: shards of different sets, of-{counts}; keep one set a folder")
    stem, total = paths[0].name[:-14], totals.pop()
    asked = [name for name in recorded(paths[0].parent) if name.startswith(stem)]
    expected = asked or [f"{stem}{i:05d}-of-{total}" for i in range(int(total))]
    return [f"{name}: the shard is missing" for name in sorted(set(expected) - {path.name for path in paths})]


def recorded(folder: Path) -> dict[str, dict]:
    """What a download recorded of each file that was asked for: its `size` and `md5`; empty where there was none."""
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    content = read_file(path)
    try:
        return {name: {"size": int(entry["size"]), "md5": entry["md5"]} for name, entry in parse_json(content).items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not a record of a download ({error}); delete it and download again") from error


def recorded_lengths(path: Path) -> list[int]:
    """Records in each shard of this shard's split by dataset_info.json; empty where that file does not say."""
    info = path.parent / "dataset_info.json"
    split = path.name.split(".")[0].rpartition("-")[2]
    if not info.exists():
        return []
    content = read_file(info)
    try:
        splits = parse_json(content).get("splits", [])
        lengths = [[int(n) for n in entry.get("shardLengths", [])] for entry in splits if entry["name"] == split]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{info}: not a dataset_info.json ({error}); download it again or delete it") from error
    return lengths[0] if lengths else []
