"""Large files over HTTPS: resumed where they broke off, several at a time, checked by size and md5; tars unpacked.

pooch, the usual choice, starts a broken download from its first byte again; for the 59 GB of MOVi-A that will not do.
Used by lib.data.download.
"""

import hashlib
import io
import os
import re
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from tqdm.utils import CallbackIOWrapper
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from lib.files import DataError, lock, parse_json

TRIES = 5  # in a row without any byte of progress
WAIT = 0.5  # seconds before the second try, doubled for each further one
TIMEOUT = (10, 60)  # seconds to connect, and between two bytes
CHUNK = 1 << 16
SHORT, PATIENCE = 1 << 20, 120  # bytes of a page of a listing or of a header in a tar; seconds for such a page
RESUME = "what has arrived is kept: the same command goes on from there"


@dataclass(frozen=True)
class File:
    """A file to have: where it is, where it shall be, and its size in bytes and md5 (hexadecimal) where known.

    Of a size that is not known beforehand, `most` is the bound.
    """

    url: str
    path: Path
    size: int | None = None
    md5: str | None = None
    most: int = 1 << 50

    @property
    def part(self) -> Path:
        """Where it grows until it is complete."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def here(self) -> int:
        """Bytes on the disk already."""
        return max((path.stat().st_size for path in (self.path, self.part) if path.exists()), default=0)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn an OSError, which does not always name a file (a full disk), into a DataError that does."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}; {RESUME}") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other downloads out of a folder; DataError where one is at work there. Its lock ends with its process."""
    with named(folder), lock(folder.with_name(f".{folder.name}.lock")) as mine:
        if not mine:
            raise DataError(f"{folder}: another download is at work here; try again when it has ended")
        yield


def open_session(connections: int = 1) -> requests.Session:
    """A session that tries again, after a pause, where a connection fails or the server is overloaded."""
    again = {"status_forcelist": (408, 429, 500, 502, 503, 504), "raise_on_status": False, "retry_after_max": 60}
    retry = Retry(TRIES - 1, backoff_factor=WAIT, **again)
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=connections))
    session.headers["Accept-Encoding"] = "identity"  # sizes and offsets are those of the file
    return session


def get(session: requests.Session, url: str, **options) -> requests.Response:
    """A response with status 200, 206 or 416, its body not read yet; all else is a DataError that says what it is."""
    host = url.partition("://")[2].partition("/")[0]
    try:
        response = session.get(url, timeout=TIMEOUT, stream=True, **options)
    except (requests.RequestException, ValueError) as error:
        raise DataError(f"cannot reach {host} for {url} ({error}); is this machine offline? {RESUME}") from error
    means = {401: "refuses access", 403: "refuses access", 404: "does not have it", 410: "no longer has it"}
    code, coding = response.status_code, response.headers.get("Content-Encoding") or "identity"
    wrong = None
    if code not in (200, 206, 416):
        wrong = f"HTTP {code}, {host} {means.get(code, f'is not able to answer now; {RESUME}')}"
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


def copy(response: requests.Response, out: BinaryIO, most: int, go_on: Callable[[], bool]) -> str | None:
    """Copy a body and return why it broke off, if it did; `go_on` is asked after each piece.

    Raises DataError where there are more than `most` bytes.
    """
    have = 0
    try:
        # Not iter_content: where a connection breaks it drops what had come of a chunk.
        while chunk := response.raw.read1(CHUNK):
            have += len(chunk)
            if have > most:
                raise DataError(f"{response.url}: the server sends more than the {most} bytes that are due")
            out.write(chunk)
            if not go_on():
                return "stopped"
    except HTTPError as error:
        return str(error)
    return None


def get_json(session: requests.Session, url: str, **options) -> Any:
    """What a short body of JSON says; ValueError where it is none, breaks off, is too long or takes too long."""
    body, end = io.BytesIO(), time.monotonic() + PATIENCE
    with get(session, url, **options) as response:
        trouble = copy(response, body, SHORT, lambda: time.monotonic() < end)
    if trouble:
        raise ValueError(trouble)
    return parse_json(body.getvalue())


def md5_of(path: Path) -> str:
    """The md5 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def fault(path: Path, size: int | None, md5: str | None) -> str | None:
    """What is wrong with a file that should have this size in bytes and this md5; None if nothing is."""
    if not path.is_file():
        return "is missing"
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, {size} are due"
    if md5 is not None and (found := md5_of(path)) != md5:
        return f"has md5 {found}, {md5} is due"
    return None


def check_space(folder: Path, needed: float) -> None:
    """Raise DataError unless the disk of `folder`, which need not exist yet, has `needed` bytes left."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DataError(f"{folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; make room or choose --dest")


def fetch_all(files: Iterable[File], workers: int = 4, about: str = "") -> None:
    """Have all the files, `workers` at a time; what is there and right is left alone, what is there and wrong replaced.

    Raises DataError at the first file that cannot be had; the others stop where they are, to be resumed.
    """
    files, workers, stop = list(files), max(1, min(workers, 32)), threading.Event()
    with (
        tqdm(total=sum(file.size or 0 for file in files) or None, unit="B", unit_scale=True, desc=about) as bar,
        open_session(workers) as session,
        ThreadPoolExecutor(workers) as pool,
    ):
        jobs = [pool.submit(_have, file, session, bar, stop) for file in files]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _have(file: File, session: requests.Session, bar: tqdm, stop: threading.Event) -> None:
    """Bring one file. A beginning that was there may be damaged, or of another version: then once more, all of it."""
    if not fault(file.path, file.size, file.md5):
        bar.update(file.here)
        return
    with named(file.part):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(1 + file.part.exists()):
            _receive(file, session, bar, stop)
            if not (wrong := fault(file.part, file.size, file.md5)):
                os.replace(file.part, file.path)
                return
            file.part.unlink()
    raise DataError(f"{file.url}: what arrived {wrong}; try again, and if that stays so, the file changed there")


def _receive(file: File, session: requests.Session, bar: tqdm, stop: threading.Event) -> None:
    """Let `file.part` grow to the end, over as many connections as it takes.

    It goes on only from the beginning of the same file: by the server's ETag or date or, where the server gives none,
    by the md5 in the end. Without either it starts anew.

    Raises DataError after TRIES connections without a byte that was not there before.
    """
    tag = file.path.with_name(f"{file.path.name}.tag.part")  # the version that `part` is the beginning of
    file.part.touch()
    have = best = file.part.stat().st_size
    bar.update(have)
    least, most = (0, file.most) if file.size is None else (file.size, file.size)
    tries, complete = 0, have == file.size and file.md5
    while not complete:
        if stop.wait(WAIT * 2 ** (tries - 1) if tries else 0):
            raise DataError(f"{file.url}: stopped; {RESUME}")
        version = tag.read_text("latin-1") if tag.exists() else ""
        headers = {"Range": f"bytes={have}-", "If-Range": version or None} if have and (version or file.md5) else {}
        with get(session, file.url, headers=headers) as response, open(file.part, "ab") as out:
            start, total, now = _extent(response.status_code, response.headers)
            if total is not None and not least <= total <= most:
                raise DataError(f"{file.url}: the server announces {total} bytes, {most} are due")
            same = now == version or not (now and version)
            if response.status_code == 416 and same and (total == have or (total is None and file.md5)):
                break  # of a file whose size or md5 was not known beforehand, everything is here
            if start != have or not same:  # it cannot resume, or has another file now: from the beginning
                out.truncate(0)
                bar.update(-have)
                have = 0
            trouble = f"the server did not resume (HTTP {response.status_code})"
            if start == have:
                if not have:
                    tag.write_text(now, "latin-1")
                trouble = copy(
                    response, CallbackIOWrapper(bar.update, out, "write"), most - have, lambda: not stop.is_set()
                )
        have = file.part.stat().st_size
        if not trouble and have < (file.size or total or 0):
            trouble = "the connection closed early"
        complete = not trouble
        tries = 0 if have > best else tries + 1
        best = max(best, have)
        if tries == TRIES and not complete:
            raise DataError(f"{file.url}: {trouble} at byte {have}, {TRIES} times in a row; {RESUME}")
    tag.unlink(missing_ok=True)


def _extent(status: int, headers: Mapping[str, str]) -> tuple[int | None, int | None, str]:
    """The first byte that a response brings, the size of the whole file, and its ETag or date; where it says so."""
    brings = headers.get("Content-Range", "") if status != 200 else f"bytes 0-0/{headers.get('Content-Length', '*')}"
    match = re.match(r"bytes (?:([0-9]{1,15})-[0-9]+|\*)/(?:([0-9]{1,15})$|\*)", brings)
    start, total = (number and int(number) for number in (match.groups() if match else (None, None)))
    etag = headers.get("ETag", "")  # a weak one, W/"...", does not promise the same bytes
    return start, total, etag if etag.startswith('"') else headers.get("Last-Modified", "")


def absent(folder: Path) -> str:
    """Which of the two folders of a part of StreetHazards has no file in it, or is not there, in words."""
    walks = {name: os.walk(folder / name, followlinks=True) for name in ("images", "annotations")}
    return " and ".join(f"no {name}" for name, walk in walks.items() if not any(files for *_, files in walk))


class _Tar(io.BufferedReader):
    """A tar none of whose headers fills the memory, whatever it says of its length."""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= SHORT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one, to the end: tarfile takes a spoilt header for the end, and lets members point back."""
    before = -1
    while (member := tar.next()) is not None:
        tar.members.clear()  # else all are kept
        if tar.offset <= before:
            raise tarfile.ReadError(f"a member points back from byte {before}")
        before = tar.offset
        yield member
    left = tar.fileobj.seek(0, os.SEEK_END) - tar.fileobj.seek(tar.offset)
    if left < tarfile.BLOCKSIZE or any(rest.strip(b"\0") for rest in iter(lambda: tar.fileobj.read(CHUNK), b"")):
        raise tarfile.ReadError(f"neither a header nor the end of the archive at byte {tar.offset}")


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar of `images/` and `annotations/`, or of a folder of both, as `target`, whole or not at all.

    Plain files and folders only: with no links in it, no member can lead another out of the folder, and with no sparse
    files no more is written than the archive has bytes. Raises DataError for a tar that has anything else, would write
    outside, cannot be read to its end or lacks one of the two folders, and where the disk is full.
    """

    def plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
        if not (member.isreg() or member.isdir()) or member.issparse() or member.name.count("/") > 16:
            raise tarfile.ReadError(f"{member.name[:80]!r} is no plain file or folder, or lies too deep")
        return tarfile.data_filter(member, folder)

    scratch = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        scratch.mkdir()
        with _Tar(open(archive, "rb", buffering=0)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            tar.extractall(scratch, tqdm(_members(tar), f"unpacking {target.name}", unit=" files"), filter=plain)
        top = scratch / target.name if (scratch / target.name).is_dir() else scratch
        if lacks := absent(top):
            raise tarfile.ReadError(f"{lacks} in it")
        os.replace(top, target)
    except (OSError, tarfile.TarError, ValueError, LookupError, OverflowError, RecursionError) as error:
        remedy = "start again when that is mended" if isinstance(error, OSError) else "delete it and download it again"
        raise DataError(f"{archive}: {str(error)[:200]}; nothing was unpacked; {remedy}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
