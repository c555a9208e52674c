"""TFRecord shards and `tf.train.Example` written and read whole; lib.data.tfrecord says the format."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lib.data.tfrecord import masked_crc32c, read_record, scan_shard
from lib.files import DataError, written


def write_records(path: Path | str, records: Iterable[bytes]) -> int:
    """Write a shard and return its number of records; the file appears whole or not at all.

    `records` may be a generator: one record is in memory at a time. If it raises, nothing is left behind.
    """
    count = 0
    with written(Path(path)) as temporary, open(temporary, "wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(record)
            file.write(struct.pack("<I", masked_crc32c(record)))
            count += 1
    return count


def read_records(path: Path | str) -> Iterator[bytes]:
    """All records of a shard in order; raises DataError, naming the shard, at the first that is damaged."""
    records, damage = scan_shard(path)
    for number, place in enumerate(records):
        try:
            yield read_record(path, *place)
        except DataError as error:
            raise DataError(f"{Path(path).name}: record {number} is damaged ({error})") from error
    if damage:
        raise DataError(f"{Path(path).name}: {damage}")


def encode_example(features: Mapping[str, bytes | list[bytes] | np.ndarray | list]) -> bytes:
    """Serialise a `tf.train.Example`.

    Each value is bytes or a list of bytes (an empty list is an empty list of bytes), or numbers: a scalar, list or
    array of integers or booleans (stored as int64) or of floats (stored as float32), flattened in C order. Give an
    empty numeric list as `np.zeros(0, dtype)`, so that its kind is known. Raises TypeError for anything else.
    """
    entries = []
    for key, value in features.items():
        feature = _message(2, _encode_feature(key, value))
        entries.append(_message(1, _message(1, key.encode()) + feature))
    return _message(1, b"".join(entries))


def _encode_feature(key: str, value) -> bytes:
    if isinstance(value, bytes):
        value = [value]
    if isinstance(value, list) and all(isinstance(item, bytes) for item in value):
        return _message(1, b"".join(_message(1, item) for item in value))
    array = np.asarray(value)
    if array.dtype.kind == "f":
        packed, number = array.astype("<f4").tobytes(), 2
    elif array.dtype.kind in "iub" and (array.dtype != np.uint64 or array.size == 0 or array.max() < 2**63):
        packed, number = _encode_varints(array.astype(np.int64).ravel()), 3
    else:
        raise TypeError(f"{key}: cannot store {type(value).__name__} of {array.dtype} in an Example")
    return _message(number, _message(1, packed) if packed else b"")


def _message(number: int, payload: bytes) -> bytes:
    """One length-delimited field."""
    size, length = len(payload), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + length + payload


def _encode_varints(values: np.ndarray) -> bytes:
    """int64 [n] to base-128 varints: a whole flow field at once, because a loop over 786,432 values takes seconds."""
    values = values.view(np.uint64)
    shifts = np.arange(0, 70, 7, dtype=np.uint64)
    more = (values[:, None] >> shifts[1:]) > 0  # a byte is followed by another while anything is left above it
    more = np.concatenate([more, np.zeros((len(values), 1), bool)], axis=1)
    used = np.concatenate([np.ones((len(values), 1), bool), more[:, :-1]], axis=1)
    groups = (values[:, None] >> shifts & np.uint64(0x7F)).astype(np.uint8)
    return (groups | more.astype(np.uint8) << 7)[used].tobytes()
