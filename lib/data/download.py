"""Gets the real data sets. Neither may be redistributed, so nothing of them is in the repository.

    python -m lib.data.download movi_a --split validation --resolution 128 [--scenes 300] [--dest DIR]
    python -m lib.data.download streethazards [--part train] [--dest DIR]
    python -m lib.data.download movi_a --verify [--dest DIR]      # offline: is all that was downloaded still right?

Stop it at any time: the same command goes on where it stopped, and checks what is there. MOVi-A (Greff et al., Kubric,
CVPR 2022) comes from its public bucket; StreetHazards (Hendrycks et al., ICML 2022) from its authors' page.
"""

import argparse
import base64
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from tqdm.auto import tqdm

from lib import ROOT
from lib.data import fetch
from lib.data.fetch import File
from lib.data.shards import CHECKSUMS, SHARD, recorded, recorded_lengths
from lib.files import DataError, parse_json, write

DEST = ROOT / "data" / "real"
BUCKET = "kubric-public"
MOVI_SERVER = "https://storage.googleapis.com"
STREET_SERVER = "https://people.eecs.berkeley.edu/~hendrycks"
PAGES, PAGE, PATIENCE = 100, 1 << 20, 120  # of a listing, at 1000 names each; bytes of a page, and seconds for it
DESCRIPTION = re.compile(r"[\w-]+(\.labels)?\.(json|txt)")  # of a split: beside its shards
#: Part of StreetHazards: md5 as published, and about how many bytes the archive has.
STREET_PARTS = {
    "train": ("cd2d1a8649848afb85b5059d227d2090", 8.8e9),
    "test": ("8c547c1346b00c21b2483887110bfea7", 2.1e9),
}


def download_movi(split: str, resolution: int = 128, scenes: int | None = None, dest: Path | str = DEST) -> Path:
    """Download the shards of one split of MOVi-A, or as many as hold the first `scenes` scenes.

    Writes `<dest>/movi_a/<r>x<r>/1.0.0/`, as TensorFlow Datasets would lay it out, and beside the shards
    `checksums.json`: the md5 of every file that was asked for. `MoviDataset` and `--verify` compare with it.

    Returns:
        The folder with the shards.

    Raises:
        DataError: offline, refused, no such split, too little room, or a file that is not what the listing says.
    """
    if scenes is not None and scenes < 1:
        raise DataError(f"--scenes is {scenes}; ask for at least 1, or leave it out for all")
    name = f"movi_a/{resolution}x{resolution}/1.0.0"
    folder = Path(dest) / name
    offered = _list_bucket(f"tfds/{name}/", folder)
    found = {key: match[1] for key in sorted(offered) if (match := SHARD.fullmatch(key))}
    shards = [key for key in found if found[key] == split]
    if not shards:
        splits = ", ".join(sorted({*found.values()}))
        raise DataError(f"{MOVI_SERVER}: no split {split!r} of {name}; there is {splits or 'nothing'}")
    if int(shards[0][-5:]) != len(shards):
        raise DataError(f"{MOVI_SERVER}: the listing of {name} has {len(shards)} shards of {shards[0][-5:]}; try later")
    with fetch.alone(folder):
        beside = [file for key, file in offered.items() if key not in found]
        fetch.fetch_all(beside, "about the split")
        if scenes is not None:
            lengths = recorded_lengths(folder / shards[0])
            if len(lengths) != len(shards):
                raise DataError("dataset_info.json does not say how many scenes a shard holds; leave out --scenes")
            shards = [shard for i, shard in enumerate(shards) if sum(lengths[:i]) < scenes]
            print(f"{len(shards)} of {len(lengths)} shards, {sum(lengths[: len(shards)])} of {sum(lengths)} scenes")
        files = [*beside, *(offered[key] for key in shards)]
        fetch.check_space(folder, sum(file.most - file.here for file in files))
        known, stem = recorded(folder), f"movi_a-{split}."
        # What an earlier, larger request asked for and never got is no longer due.
        known = {key: md5 for key, md5 in known.items() if not key.startswith(stem) or (folder / key).exists()}
        write(folder / CHECKSUMS, known | {file.path.name: file.md5 for file in files})
        fetch.fetch_all(files, f"movi_a {split}")
    return folder


def _list_bucket(prefix: str, folder: Path) -> dict[str, File]:
    """The shards and their descriptions below the prefix, by name, over as many pages as there are."""
    url, found = f"{MOVI_SERVER}/storage/v1/b/{BUCKET}/o", {}
    query = {"prefix": prefix, "fields": "items(name,size,md5Hash),nextPageToken"}
    with fetch.open_session() as session:
        for _ in range(PAGES):
            body = io.BytesIO()
            with fetch.get(session, url, params=query) as response:
                trouble = fetch.copy(response, body, PAGE, PATIENCE)
            try:
                if trouble:
                    raise ValueError(trouble)
                page = parse_json(body.getvalue())
                for item in page.get("items", []):
                    name, md5 = str(item["name"]).removeprefix(prefix), base64.b64decode(item["md5Hash"], validate=True)
                    if SHARD.fullmatch(name) or (DESCRIPTION.fullmatch(name) and name != CHECKSUMS):
                        address = f"{MOVI_SERVER}/{BUCKET}/{quote(prefix + name)}"
                        found[name] = File(address, folder / name, md5.hex(), int(item["size"]))
                token = page.get("nextPageToken")
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise DataError(f"{url}: no listing of files with size and md5 ({str(error)[:200]!r})") from error
            if not token:
                return found
            query["pageToken"] = token
    raise DataError(f"{url}: the listing does not end within {PAGES} pages")


def verify(dest: Path | str = DEST) -> list[str]:
    """Compare all of MOVi-A under `dest` with the md5 recorded at its download; one line for each fault."""
    folders = sorted(path.parent for path in Path(dest).glob(f"movi_a/*/*/{CHECKSUMS}"))
    files = [(folder / name, md5) for folder in folders for name, md5 in recorded(folder).items()]
    if not files:
        raise DataError(f"{dest}: nothing was downloaded here")
    faults = ((path, fetch.fault(path, md5)) for path, md5 in tqdm(files, desc="verifying", unit="file"))
    return [f"{path} {wrong}" for path, wrong in faults if wrong]


def download_streethazards(parts: Sequence[str] = tuple(STREET_PARTS), dest: Path | str = DEST) -> Path:
    """Download and unpack StreetHazards to `<dest>/streethazards/{train,test}`; a part that is there is left alone.

    The archive must have the published md5 and is deleted after unpacking. Returns `<dest>/streethazards`, for
    `lib.data.streethazards`; raises DataError as `download_movi` does, for an archive that would write outside its
    folder, and where a folder of that name has something else in it.
    """
    folder = Path(dest) / "streethazards"
    with fetch.alone(folder):
        for part in parts:
            target, (md5, size) = folder / part, STREET_PARTS[part]
            if not (lacks := fetch.absent(target)):
                print(f"{target} is there")
                continue
            if target.is_file() or any(target.glob("*")):
                raise DataError(f"{target}: {lacks} in it; move it away and start again")
            name = f"streethazards_{part}.tar"
            archive = File(f"{STREET_SERVER}/{name}", folder / name, md5, int(1.5 * size))
            fetch.check_space(folder, 2 * size - archive.here)
            fetch.fetch_all([archive], part)
            fetch.unpack(archive.path, target)
            archive.path.unlink()
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.download", description=__doc__.split("\n")[0])
    sets = parser.add_subparsers(dest="name", required=True)
    movi, street = sets.add_parser("movi_a"), sets.add_parser("streethazards")
    for each in (movi, street):
        each.add_argument("--dest", type=Path, default=DEST, help="default: data/real")
    movi.add_argument("--split", choices=("train", "validation"), default="validation")
    movi.add_argument("--resolution", type=int, choices=(128, 256), default=128)
    movi.add_argument("--scenes", type=int, help="only the shards that hold the first so many scenes")
    movi.add_argument("--verify", action="store_true", help="download nothing, check what is there")
    street.add_argument("--part", choices=STREET_PARTS, action="append", help="default: both")
    given = parser.parse_args(arguments)
    try:
        if given.name == "streethazards":
            folder = download_streethazards(given.part or tuple(STREET_PARTS), given.dest)
            print(f"{folder}: check it with `python -m lib.data.streethazards {folder}`")
        elif given.verify:
            faults = verify(given.dest)
            print("\n".join(faults) or "every file is as it was downloaded")
            return 1 if faults else 0
        else:
            folder = download_movi(given.split, given.resolution, given.scenes, given.dest)
            print(f"MoviDataset({str(folder)!r}, {given.split!r})")
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
