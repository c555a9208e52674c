"""Files: written whole or not at all, read with a limit, locked, and JSON from outside parsed with limits."""

import base64
import glob
import json
import os
import platform
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike, NDArray

NOTHING = 65535  # what is packed for a NaN


class DataError(ValueError):
    """A file of a dataset is missing, damaged or not what it claims to be.

    The message names the file, what is wrong in it, and what to do about it.
    """


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it takes its place when it is whole, and is gone if it is not.

    Whoever reads sees the old file or the new one, also where several processes or threads write at once. What writers
    that were killed left in the folder is deleted.

    Raises:
        OSError: the folder or the file cannot be written; the message names the file.
    """
    host = platform.node()
    temporary = path.with_name(f".{path.name}.{host}-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".*.{glob.escape(host)}-*-*.tmp"):
            if not _lives(int(left.name.split("-")[-2])):
                left.unlink(missing_ok=True)
        temporary.touch()
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}); free some space or choose another --out") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def write(path: Path, content: str | bytes | dict | list) -> None:
    """Write text, bytes, or anything else as JSON, whole or not at all; errors as of `written`."""
    if not isinstance(content, str | bytes):
        content = as_lines(content) + "\n"
    with written(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def as_lines(value: Any, levels: int = 2, margin: str = "") -> str:
    """JSON with a line for every value `levels` down: a row, or a configuration. Small, and a diff shows which changed.

    ValueError: NaN or infinity.
    """
    if not levels or not isinstance(value, dict | list) or not value:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    keys = [f"{json.dumps(str(key))}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    each = value.values() if isinstance(value, dict) else value
    inner = [f"{margin} {key}{as_lines(v, levels - 1, margin + ' ')}" for key, v in zip(keys, each, strict=True)]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([first, ",\n".join(inner), margin + last])


def packed(shares: ArrayLike) -> str:
    """Shares as text for a row of a sweep, in 16 bits each: to 1 / 65534; `unpacked` reads it.

    Raises:
        ValueError: one is neither in 0..1 nor NaN.
    """
    shares = np.asarray(shares, float)
    if ((shares < 0) | (shares > 1)).any():
        raise ValueError(f"shares lie in 0..1, here in {np.nanmin(shares):g}..{np.nanmax(shares):g}")
    whole = np.where(np.isnan(shares), NOTHING, np.round(shares * (NOTHING - 1)))
    return base64.b64encode(whole.astype("<u2").tobytes()).decode()


def unpacked(text: str) -> NDArray[np.float64]:
    """The shares of `packed`, `[n]`; ValueError for any other text."""
    whole = np.frombuffer(base64.b64decode(text, validate=True), "<u2").astype(float)
    return np.where(whole == NOTHING, np.nan, whole / (NOTHING - 1))


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `path`; False where another process has it and `wait` is not set.

    The system frees it when its holder dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, timeout=-1 if wait else 0)
    with suppress(Timeout):
        held.acquire()
    try:
        yield held.is_locked
    finally:
        held.release()


def open_file(path: Path | str) -> BinaryIO:
    """A regular file, opened for reading. Raises DataError for anything else: a pipe would be waited for for ever."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return open(path, "rb")
        reason = "it is a folder, a pipe or a device"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
    raise DataError(f"{path} cannot be read: {reason}; put a file there")


def read_file(path: Path | str, most: int = 2**24) -> bytes:
    """All of a regular file of at most `most` bytes. Raises DataError."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise DataError(f"{path} has more than {most} bytes; put the right file there")
        return file.read()


def parse_json(text: bytes | str) -> Any:
    """JSON of any depth and with numbers of any length: what Python cannot hold is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
