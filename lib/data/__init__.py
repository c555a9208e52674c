"""Datasets: synthetic shapes, photographs, MOVi-A and StreetHazards, and their download."""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO


class DataError(ValueError):
    """A file of a dataset is missing, damaged or not what it claims to be.

    The message names the file, what is wrong in it, and what to do about it.
    """


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


def parse_json(text: bytes) -> Any:
    """JSON of any depth and with numbers of any length: what Python cannot hold is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
