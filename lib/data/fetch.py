"""Large files over HTTPS: resumed where they broke off, checked by size and md5; tars unpacked whole or not at all.

pooch, the usual choice, starts a broken download from its first byte again; for the 59 GB of MOVi-A that will not do.
Used by lib.data.download.
"""

import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import BinaryIO

import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from tqdm.utils import CallbackIOWrapper
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from lib.files import DataError, lock

TRIES = 5  # in a row without any byte of progress
WAIT = 0.5  # seconds before the second try, doubled for each further one
TIMEOUT = (10, 60)  # seconds to connect, and between two bytes
CHUNK = 1 << 16
RESUME = "what has arrived is kept: the same command goes on from there"


@dataclass(frozen=True)
class File:
    """A file to have: where it is, where it shall be, its md5 (hexadecimal), and its size in bytes or a bound of it."""

    url: str
    path: Path
    md5: str
    most: int

    @property
    def part(self) -> Path:
        """Where it grows until it is complete."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def here(self) -> int:
        """Bytes on the disk already."""
        return max((path.stat().st_size for path in (self.path, self.part) if path.exists()), default=0)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other downloads out of a folder; DataError where one is at work there. Its lock ends with its process."""
    with lock(folder.with_name(f".{folder.name}.lock")) as mine:
        if not mine:
            raise DataError(f"{folder}: another download is at work here; try again when it has ended")
        yield


def open_session() -> requests.Session:
    """A session that tries again, after a pause, where a connection fails or the server is overloaded."""
    again = {"status_forcelist": (408, 429, 500, 502, 503, 504), "raise_on_status": False, "retry_after_max": 60}
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=Retry(TRIES - 1, backoff_factor=WAIT, **again)))
    session.headers["Accept-Encoding"] = "identity"  # sizes and offsets are those of the file
    return session


def get(session: requests.Session, url: str, **options) -> requests.Response:
    """A response with status 200, 206 or 416, its body not read yet; all else is a DataError that says what it is."""
    host = url.partition("://")[2].partition("/")[0]
    try:
        response = session.get(url, timeout=TIMEOUT, stream=True, **options)
    except (requests.RequestException, ValueError) as error:
        raise DataError(f"cannot reach {host} for {url} ({error}); is this machine offline? {RESUME}") from error
    coding, wrong = response.headers.get("Content-Encoding") or "identity", None
    if response.status_code not in (200, 206, 416):
        wrong = f"{host} answers with HTTP {response.status_code} {response.reason}; {RESUME}"
    elif open_ := [r.url for r in (*response.history, response) if not r.url.startswith(url.partition(":")[0])]:
        wrong = f"{host} redirects to {open_[0]}, which is not encrypted"
    elif coding != "identity":  # a few bytes may stand for any number
        wrong = f"{host} sends it compressed ({coding}), which was not asked for"
    elif response.headers.get("Content-Type", "").startswith("text/html"):
        wrong = f"{host} sends a web page instead; is there a login or a proxy in between? {RESUME}"
    if wrong:
        response.close()
        raise DataError(f"{url}: {wrong}")
    return response


def copy(response: requests.Response, out: BinaryIO, most: int, patience: float = inf) -> str | None:
    """Copy a body for at most `patience` seconds; the return value says why it broke off, if it did.

    Raises DataError where there are more than `most` bytes.
    """
    have, end = 0, time.monotonic() + patience
    try:
        # Not iter_content: where a connection breaks it drops what had come of a chunk.
        while chunk := response.raw.read1(CHUNK):
            have += len(chunk)
            if have > most:
                raise DataError(f"{response.url}: the server sends more than the {most} bytes that are due")
            out.write(chunk)
            if time.monotonic() > end:
                return f"not there after {patience} s"
    except HTTPError as error:
        return str(error)
    return None


def fault(path: Path, md5: str) -> str | None:
    """What is wrong with a file that should have this md5; None if nothing is."""
    if not path.is_file():
        return "is missing"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    return None if found == md5 else f"has md5 {found}, {md5} is due"


def check_space(folder: Path, needed: float) -> None:
    """Raise DataError unless the disk of `folder`, whose parent exists, has `needed` bytes left."""
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DataError(f"{folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; make room or choose --dest")


def fetch_all(files: Iterable[File], about: str) -> None:
    """Have all the files, one after the other; what is there and right is left alone, what is there and wrong replaced.

    What is wrong and came in pieces, of two versions perhaps, is fetched once more in whole. Raises DataError at the
    first file that cannot be had.
    """
    with open_session() as session:
        for file in tqdm(files, about, unit=" files"):
            try:
                _have(file, session)
            except OSError as error:  # which does not always name a file (a full disk)
                raise DataError(f"{error.filename or file.part}: {error.strerror or error}; {RESUME}") from error


def _have(file: File, session: requests.Session) -> None:
    """Bring one file, unless it is there and right; a wrong one keeps its place until the right one has arrived."""
    if not fault(file.path, file.md5):
        return
    file.path.parent.mkdir(parents=True, exist_ok=True)
    if _receive(file, session) and fault(file.part, file.md5):
        file.part.unlink(missing_ok=True)
        _receive(file, session)
    if wrong := fault(file.part, file.md5):
        file.part.unlink(missing_ok=True)
        raise DataError(f"{file.url}: what arrived {wrong}; try again, or has it changed there?")
    os.replace(file.part, file.path)


def _receive(file: File, session: requests.Session) -> bool:
    """Let `file.part` grow to the end, over as many connections as it takes; the result is whether it came in pieces.

    Raises DataError after TRIES connections in a row without a byte that was not there before.
    """
    have = best = file.part.stat().st_size if file.part.exists() else 0
    tries, pieces, trouble = 0, have > 0, None
    while tries < TRIES:
        time.sleep(WAIT * 2 ** (tries - 1) if tries else 0)
        with get(session, file.url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
            if response.status_code == 416:  # nothing lies behind what is here; the md5 tells whether it is right
                return True
            start = have if response.status_code == 206 else 0
            total = start + (response.raw.length_remaining or 0)
            if total > file.most:
                raise DataError(f"{file.url}: the server announces {total} bytes, {file.most} are due")
            label = {"desc": file.path.name, "unit": "B", "unit_scale": True, "leave": False}
            with open(file.part, "ab" if start else "wb") as out, tqdm(total=total, initial=start, **label) as bar:
                trouble = copy(response, CallbackIOWrapper(bar.update, out, "write"), file.most - start)
        if not trouble:
            return pieces
        have, pieces = file.part.stat().st_size, True
        tries, best = 0 if have > best else tries + 1, max(best, have)
    raise DataError(f"{file.url}: {trouble} at byte {have}, {TRIES} times in a row; {RESUME}")


def absent(folder: Path) -> str:
    """Which of the two folders of a part of StreetHazards has no file in it, or is not there, in words."""
    walks = {name: os.walk(folder / name, followlinks=True) for name in ("images", "annotations")}
    return " and ".join(f"no {name}" for name, walk in walks.items() if not any(files for *_, files in walk))


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one, to the end: tarfile takes a damaged header for the end of the archive.

    Plain files and folders only: with no links no member can lead another out of the folder, and with no sparse files
    no more is written than the archive has bytes.
    """
    before = -1
    for member in tar:
        if not (member.isreg() or member.isdir()) or member.issparse() or member.name.count("/") > 16:
            raise tarfile.ReadError(f"{member.name[:80]!r} is no plain file or folder, or lies too deep")
        if tar.offset <= before:
            raise tarfile.ReadError(f"a member points back from byte {before}")
        before = tar.offset
        yield member
    left = tar.fileobj.seek(0, os.SEEK_END) - tar.fileobj.seek(tar.offset)
    if left < tarfile.BLOCKSIZE or any(rest.strip(b"\0") for rest in iter(lambda: tar.fileobj.read(CHUNK), b"")):
        raise tarfile.ReadError(f"neither a header nor the end of the archive at byte {tar.offset}")


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar of `images/` and `annotations/`, or of a folder of both, as `target`, whole or not at all.

    Raises DataError for a tar that has anything but plain files and folders, would write outside, cannot be read to its
    end or lacks one of the two folders, and where the disk is full.
    """
    scratch = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        scratch.mkdir()
        with tarfile.open(archive, "r:") as tar:
            tar.extractall(scratch, tqdm(_members(tar), f"unpacking {target.name}", unit=" files"), filter="data")
        top = scratch / target.name if (scratch / target.name).is_dir() else scratch
        if lacks := absent(top):
            raise tarfile.ReadError(f"{lacks} in it")
        os.replace(top, target)
    except (OSError, tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError) as error:
        remedy = "start again when that is mended" if isinstance(error, OSError) else "delete it and download it again"
        raise DataError(f"{archive}: {str(error)[:200]}; nothing was unpacked; {remedy}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
