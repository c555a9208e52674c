"""Gets the real data sets. Neither may be redistributed, so nothing of them is in the repository.

    python -m lib.data.download movi_a --split validation --resolution 128 [--scenes 300] [--dest DIR]
    python -m lib.data.download streethazards [--part train] [--dest DIR]
    python -m lib.data.download movi_a --verify [--dest DIR]      # offline: is all that was downloaded still right?

Stop it at any time: the same command goes on where it stopped, and checks what is there. MOVi-A (Greff et al., Kubric,
CVPR 2022) comes from its public bucket; StreetHazards (Hendrycks et al., ICML 2022) from its authors' page.
"""

import argparse
import base64
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from tqdm.auto import tqdm

from lib import ROOT
from lib.data import fetch
from lib.data.fetch import File
from lib.data.shards import CHECKSUMS, SHARD, recorded, recorded_lengths
from lib.files import DataError, write

DEST = ROOT / "data" / "real"
BUCKET = "kubric-public"
MOVI_SERVER = "https://storage.googleapis.com"
STREET_SERVER = "https://people.eecs.berkeley.edu/~hendrycks"
PAGES = 100  # of a listing, at 1000 names each
#: Part of StreetHazards: md5 as published, and about how many bytes the archive has.
STREET_PARTS = {
    "train": ("cd2d1a8649848afb85b5059d227d2090", 8.8e9),
    "test": ("8c547c1346b00c21b2483887110bfea7", 2.1e9),
}


def download_movi(
    split: str,
    resolution: int = 128,
    scenes: int | None = None,
    dest: Path | str = DEST,
    workers: int = 4,
    server: str = MOVI_SERVER,
) -> Path:
    """Download the shards of one split of MOVi-A, or as many as hold the first `scenes` scenes.

    Writes `<dest>/movi_a/<r>x<r>/1.0.0/`, as TensorFlow Datasets would lay it out, and beside the shards
    `checksums.json`: size and md5 of every file that was asked for. `MoviDataset` and `--verify` compare with it.

    Returns:
        The folder with the shards.

    Raises:
        DataError: offline, refused, no such split, too little room, or a file that is not what the listing says.
    """
    if scenes is not None and scenes < 1:
        raise DataError(f"--scenes is {scenes}; ask for at least 1, or leave it out for all")
    name = f"movi_a/{resolution}x{resolution}/1.0.0"
    folder = Path(dest) / name
    offered = {
        key: File(f"{server}/{BUCKET}/{quote(f'tfds/{name}/{key}')}", folder / key, *about)
        for key, about in _list_bucket(server, f"tfds/{name}/").items()
        if SHARD.fullmatch(key) or (re.fullmatch(r"[\w-]+(\.labels)?\.(json|txt)", key) and key != CHECKSUMS)
    }
    found = {key: match for key in sorted(offered) if (match := SHARD.fullmatch(key))}
    shards = [key for key, match in found.items() if match[1] == split]
    if not shards:
        splits = ", ".join(sorted({match[1] for match in found.values()}))
        raise DataError(f"{server}: no split {split!r} of {name}; there is {splits or 'nothing'}")
    total = shards[0][-5:]
    if shards != [f"movi_a-{split}.tfrecord-{i:05d}-of-{total}" for i in range(int(total))]:
        raise DataError(f"{server}: the listing of {name} has {len(shards)} shards of {total}; try again later")
    with fetch.alone(folder):
        fetch.fetch_all(beside := [file for key, file in offered.items() if key not in found], workers, "about")
        if scenes is not None:
            lengths = recorded_lengths(folder / shards[0])
            if len(lengths) != len(shards):
                raise DataError("dataset_info.json does not say how many scenes a shard holds; leave out --scenes")
            shards = [shard for i, shard in enumerate(shards) if sum(lengths[:i]) < scenes]
            print(f"{len(shards)} of {len(lengths)} shards, {sum(lengths[: len(shards)])} of {sum(lengths)} scenes")
        _fetch_recorded(folder, [*beside, *(offered[key] for key in shards)], workers, f"movi_a {split}")
    return folder


def _list_bucket(server: str, prefix: str) -> dict[str, tuple[int, str | None]]:
    """Name below the prefix, size in bytes and md5 of every object, over as many pages as there are."""
    url, found = f"{server}/storage/v1/b/{BUCKET}/o", {}
    query = {"prefix": prefix, "fields": "items(name,size,md5Hash),nextPageToken"}
    with fetch.open_session() as session:
        for _ in range(PAGES):
            try:
                page = fetch.get_json(session, url, params=query)
                for item in page.get("items", []):
                    md5 = base64.b64decode(item["md5Hash"], validate=True).hex() if "md5Hash" in item else None
                    if not 0 <= (size := int(item["size"])) < 1 << 50:
                        raise ValueError(f"{size} bytes")
                    found[str(item["name"]).removeprefix(prefix)] = size, md5
                token = page.get("nextPageToken")
            except DataError:
                raise
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise DataError(f"{url}: not a listing of a bucket ({str(error)[:200]!r})") from error
            if not token:
                return found
            if token == query.get("pageToken"):
                break
            query["pageToken"] = token
    raise DataError(f"{url}: the listing does not get beyond page {str(token)[:80]!r}")


def _fetch_recorded(folder: Path, files: list[File], workers: int, about: str) -> None:
    """Fetch files and keep `checksums.json`: before, as what was asked for, and after, with the md5 of what came.

    Shards of the same split that are neither asked for now nor there are no longer recorded: an earlier, larger request
    that was given up.
    """
    known, stem = recorded(folder), files[-1].path.name[:-14]
    for file in files:
        old = known.get(file.path.name, {})
        if file.path.exists() and file.md5 and old.get("md5") and (old["size"], old["md5"]) != (file.size, file.md5):
            raise DataError(
                f"{file.url} is not the file of the first download any more; delete {folder} for the new one"
            )
    files = [replace(file, md5=file.md5 or known.get(file.path.name, {}).get("md5")) for file in files]
    fetch.check_space(folder, sum(file.size - file.here for file in files))
    known = {name: entry for name, entry in known.items() if not name.startswith(stem) or (folder / name).exists()}
    asked = {file.path.name: {"size": file.size, "md5": file.md5} for file in files}
    write(folder / CHECKSUMS, known | asked)
    fetch.fetch_all(files, workers, about)
    came = {file.path.name: {"size": file.size, "md5": file.md5 or fetch.md5_of(file.path)} for file in files}
    write(folder / CHECKSUMS, known | came)


def verify(dest: Path | str = DEST) -> list[str]:
    """Compare all of MOVi-A under `dest` with the sizes and md5 recorded at its download; one line for each fault."""
    folders = sorted(path.parent for path in Path(dest).glob(f"movi_a/*/*/{CHECKSUMS}"))
    files = [(folder / name, entry) for folder in folders for name, entry in recorded(folder).items()]
    if not files:
        raise DataError(f"{dest}: nothing was downloaded here")
    faults = ((path, fetch.fault(path, **entry)) for path, entry in tqdm(files, desc="verifying", unit="file"))
    return [f"{path} {wrong}" for path, wrong in faults if wrong]


def download_streethazards(
    parts: Sequence[str] = tuple(STREET_PARTS),
    dest: Path | str = DEST,
    keep_archive: bool = False,
    server: str = STREET_SERVER,
) -> Path:
    """Download and unpack StreetHazards to `<dest>/streethazards/{train,test}`; a part that is there is left alone.

    The archive must have the published md5 and is deleted after unpacking unless `keep_archive`. Returns
    `<dest>/streethazards`, for `lib.data.streethazards`; raises DataError as `download_movi` does, for an archive that
    would write outside its folder, and where a folder of that name has something else in it.
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
            archive = File(f"{server}/{name}", folder / name, md5=md5, most=int(1.5 * size))
            fetch.check_space(folder, 2 * size - archive.here)
            fetch.fetch_all([archive], about=name)
            fetch.unpack(archive.path, target)
            if not keep_archive:
                archive.path.unlink()
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.download", description=__doc__.split("\n")[0])
    sets = parser.add_subparsers(dest="name", required=True)
    movi, street = sets.add_parser("movi_a"), sets.add_parser("streethazards")
    for each, server in ((movi, MOVI_SERVER), (street, STREET_SERVER)):
        each.add_argument("--dest", type=Path, default=DEST, help="default: data/real")
        each.add_argument("--server", default=server, help="another address of the same layout: a mirror")
    movi.add_argument("--split", choices=("train", "validation"), default="validation")
    movi.add_argument("--resolution", type=int, choices=(128, 256), default=128)
    movi.add_argument("--scenes", type=int, help="only the shards that hold the first so many scenes")
    movi.add_argument("--workers", type=int, default=4, help="files at a time")
    movi.add_argument("--verify", action="store_true", help="download nothing, check what is there")
    street.add_argument("--part", choices=STREET_PARTS, action="append", help="default: both")
    street.add_argument("--keep-archive", action="store_true")
    given = vars(parser.parse_args(arguments))
    name, check = given.pop("name"), given.pop("verify", False)
    try:
        if name == "streethazards":
            folder = download_streethazards(given.pop("part") or tuple(STREET_PARTS), **given)
            print(f"{folder}: check it with `python -m lib.data.streethazards {folder}`")
        elif check:
            faults = verify(given["dest"])
            print("\n".join(faults) or "every file is as it was downloaded")
            return 1 if faults else 0
        else:
            print(f"MoviDataset({str(download_movi(**given))!r}, {given['split']!r})")
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
