"""Large files over HTTPS: resumed where they broke off, several at a time, checked by size and md5; tars unpacked.

pooch, the usual choice, starts a broken download from its first byte again; for the 59 GB of MOVi-A that will not do.
Used by lib.data.download.
"""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from lib.data import DataError

TRIES = 5  # in a row without any byte of progress
WAIT = 0.5  # seconds before the second try, doubled for each further one
TIMEOUT = (10, 60)  # seconds to connect, and between two bytes
CHUNK = 1 << 16
RESUME = "what has arrived is kept: the same command goes on from there"


@dataclass(frozen=True)
class File:
    """A file to have: where it is, where it shall be, and its size in bytes and md5 (hexadecimal) where known."""

    url: str
    path: Path
    size: int | None = None
    md5: str | None = None

    @property
    def part(self) -> Path:
        """Where it grows until it is complete."""
        return self.path.with_name(f"{self.path.name}.part")


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
    """A response with status 2xx or 416; everything else is a DataError that says what it means for the reader."""
    host = urlsplit(url).netloc
    try:
        response = session.get(url, timeout=TIMEOUT, **options)
    except requests.RequestException as error:
        raise DataError(f"cannot reach {host} for {url} ({error}); is this machine offline? {RESUME}") from error
    if response.ok or response.status_code == 416:
        return response
    response.close()
    means = {401: "refuses access", 403: "refuses access", 404: "does not have it", 410: "no longer has it"}
    meaning = means.get(response.status_code, f"is not able to answer now; {RESUME}")
    raise DataError(f"{url}: HTTP {response.status_code}, {host} {meaning}")


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
    files = list(files)
    stop, lock = threading.Event(), threading.Lock()
    with (
        tqdm(total=sum(file.size or 0 for file in files) or None, unit="B", unit_scale=True, desc=about) as bar,
        open_session(workers) as session,
        ThreadPoolExecutor(workers) as pool,
    ):

        def report(size: int) -> None:
            with lock:
                bar.update(size)

        jobs = [pool.submit(_have, file, session, report, stop) for file in files]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _have(file: File, session: requests.Session, report: Callable[[int], None], stop: threading.Event) -> None:
    """Bring one file; `report` is told how many bytes more there are, or, with a minus, fewer."""
    if file.path.exists():
        if fault(file.path, file.size, file.md5) is None:
            report(file.path.stat().st_size)
            return
        file.path.unlink()
    file.path.parent.mkdir(parents=True, exist_ok=True)
    resumed = file.part.exists()
    wrong = _receive(file, session, report, stop)
    if wrong and resumed:  # the beginning was of another version of the file, or damaged: once more, all of it
        wrong = _receive(file, session, report, stop)
    if wrong:
        raise DataError(f"{file.url}: what arrived {wrong}; try again, and if that stays so, the file changed there")
    os.replace(file.part, file.path)


def _receive(file: File, session: requests.Session, report: Callable[[int], None], stop: threading.Event) -> str | None:
    """Let `file.part` grow to the end, over as many connections as it takes; if it is wrong then, say how, and drop it.

    Raises DataError after TRIES connections without a byte that was not there before.
    """
    file.part.touch()
    have = best = file.part.stat().st_size
    report(have)
    tries, complete = 0, have == file.size
    while not complete:
        if stop.wait(WAIT * 2 ** (tries - 1) if tries else 0):
            raise DataError(f"{file.url}: stopped; {RESUME}")
        headers = {"Range": f"bytes={have}-"} if have else {}
        with get(session, file.url, headers=headers, stream=True) as response:
            start, total = _extent(response)
            if None not in (total, file.size) and total != file.size:
                raise DataError(f"{file.url}: the server announces {total} bytes, {file.size} are due")
            if complete := response.status_code == 416 and total == have:
                break  # of a file whose size was not known beforehand, everything is here
            if start != have:  # the server cannot resume: from the beginning
                os.truncate(file.part, 0)
                report(-have)
                have = 0
            trouble = f"the server did not resume (HTTP {response.status_code})"
            if start == have:
                trouble = _append(file, response, have, report, stop)
                received = file.part.stat().st_size
                complete = received == (file.size or total or received) and not trouble
        have = file.part.stat().st_size
        tries = 0 if have > best else tries + 1
        best = max(best, have)
        if tries == TRIES and not complete:
            raise DataError(f"{file.url}: {trouble} at byte {have}, {TRIES} times in a row; {RESUME}")
    if wrong := fault(file.part, file.size, file.md5):
        report(-file.part.stat().st_size)
        file.part.unlink()
    return wrong


def _append(file: File, response: requests.Response, have: int, report: Callable[[int], None], stop) -> str | None:
    """Write what a response brings behind the `have` bytes that are there; the reason where it broke off."""
    try:
        with open(file.part, "ab") as out:
            # Not iter_content: where a connection breaks it drops what had come of a chunk.
            while chunk := response.raw.read1(CHUNK):
                have += len(chunk)
                if file.size is not None and have > file.size:
                    raise DataError(f"{file.url}: the server sends more than the {file.size} bytes that are due")
                out.write(chunk)
                report(len(chunk))
                if stop.is_set():
                    return "stopped"
    except (requests.RequestException, HTTPError) as error:
        return str(error)
    return None if file.size in (None, have) else "the connection closed early"


def _extent(response: requests.Response) -> tuple[int | None, int | None]:
    """The first byte that a response brings, and the size of the whole file, where it says so."""
    if response.status_code in (206, 416):
        match = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
        start, total = match.groups() if match else (None, None)
        return start and int(start), int(total) if total and total != "*" else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar of `images/` and `annotations/`, or of a folder of both, as `target`, whole or not at all.

    Plain files and folders only: with no links in it, no member can lead another out of the folder. Raises DataError
    for a tar that has anything else, would write outside, cannot be read or lacks one of the two folders.
    """

    def plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
        if not (member.isreg() or member.isdir()):
            raise DataError(f"{archive}: {member.name} is neither a file nor a folder; nothing was unpacked")
        return tarfile.data_filter(member, folder)

    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with tarfile.open(archive, "r:") as tar:
            tar.extractall(scratch, tqdm(tar, desc=f"unpacking {target.name}", unit=" files"), filter=plain)
        top = scratch / target.name if (scratch / target.name).is_dir() else scratch
        if absent := [name for name in ("images", "annotations") if not (top / name).is_dir()]:
            raise DataError(f"{archive}: no {' and no '.join(absent)} in it; nothing was unpacked")
        top.chmod(0o755)
        os.replace(top, target)
    except tarfile.TarError as error:
        raise DataError(f"{archive}: {error}; nothing was unpacked; delete it and download it again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
