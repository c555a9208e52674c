"""TFRecord shards and `tf.train.Example` without TensorFlow.

A shard is a sequence of records: length (u64), CRC of the length (u32), the bytes, CRC of the bytes (u32), all little
endian. The CRCs are CRC32C, "masked" so that a CRC of data that itself contains CRCs stays informative. A record of
MOVi-A is one `tf.train.Example`, a protobuf map from a key to a list of bytes, of float32 or of int64.

Sources: tensorflow/core/lib/io/record_writer.h (framing), tensorflow/core/example/{example,feature}.proto (messages),
protobuf.dev/programming-guides/encoding (wire format). Used by lib.data.movi; data/make/tfrecords.py writes them.
"""

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from lib.files import DataError, open_file

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types; 3 and 4 (groups) never occur in an Example
# Field numbers of the oneof in tf.train.Feature, and how its values may be stored: packed numbers or one by one.
_KINDS = {1: ("bytes", (_BYTES,)), 2: ("float", (_BYTES, _FIXED32)), 3: ("int64", (_BYTES, _VARINT))}
LONGEST = 2**27  # bytes of a record; one of MOVi-A at 256 px, flows included, has about a quarter
MOST_FIELDS = 2**20  # of one message; numbers come packed, so real ones have a few dozen


def masked_crc32c(data: bytes) -> int:
    """The checksum that the framing stores: CRC32C rotated right by 15 bits plus a constant, modulo 2**32."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scan_shard(path: Path | str) -> tuple[list[list[int]], str | None]:
    """Find the records of a shard by reading only their headers.

    Returns one `[offset, length, crc]` a record (first byte and number of bytes of the data, and the masked CRC stored
    behind it) and None, or, where the framing breaks off, the records before that point and what is wrong there.
    An empty file has no records and nothing wrong with it: only its owner knows how many there should be.
    """
    records: list[list[int]] = []
    with open_file(path) as file:
        size, position = os.fstat(file.fileno()).st_size, 0
        while position < size:
            where = f"record {len(records)} at byte {position}"
            file.seek(position)
            header = file.read(12)
            if len(header) < 12:
                return records, f"{where}: the file ends inside the header"
            length, crc = struct.unpack("<QI", header)
            if masked_crc32c(header[:8]) != crc:
                return records, f"{where}: crc mismatch in the length, the rest of the file cannot be read"
            if position + 12 + length + 4 > size:
                return records, f"{where}: {length} bytes announced, {max(size - position - 16, 0)} left in the file"
            file.seek(position + 12 + length)
            footer = file.read(4)
            records.append([position + 12, length, int.from_bytes(footer, "little")])
            position += 12 + length + 4
    return records, None


def read_record(path: Path | str, offset: int, length: int, crc: int) -> bytes:
    """The data of one record that `scan_shard` found.

    The file is opened anew on each call: next to decoding that costs nothing, and there is no handle to share between
    worker processes. Raises DataError where the bytes do not match their CRC or are more than `LONGEST`.
    """
    if length > LONGEST:  # a sparse file has room for any length, memory has not
        raise DataError(f"{length} bytes at byte {offset}, at most {LONGEST} are read")
    with open_file(path) as file:
        file.seek(offset)
        data = file.read(length)
    if len(data) != length or masked_crc32c(data) != crc:
        raise DataError(f"crc mismatch in the {length} bytes at byte {offset}")
    return data


def decode_example(record: bytes, wanted: Collection[str] | None = None) -> dict[str, list[bytes] | np.ndarray]:
    """The features of a serialised `tf.train.Example`; with `wanted`, only those keys, and the rest is jumped over.

    Values are lists of bytes, float32 [n] or int64 [n]. A wanted key that the record lacks is absent from the result.
    What comes twice is treated as protobuf does: messages are merged, of keys and of kinds the last counts. Raises
    DataError, with the key or the byte, where the message is malformed or a wanted feature is of a kind that
    `tf.train.Feature` does not have.
    """
    names = None if wanted is None else {key.encode() for key in wanted}
    features: dict[str, list[bytes] | np.ndarray] = {}
    for span in _spans(record, 0, len(record)):  # Example.features
        for entry in _spans(record, *span):  # Features.feature, a map
            key, values = b"", []
            for number, wire, start, stop in _fields(record, *entry):
                if number == 1:
                    key = record[start:stop]
                elif number == 2 and wire == _BYTES:
                    values.append((start, stop))
            if names is None or key in names:  # else the value, 2 MB of a flow field, is never looked at
                features[key.decode(errors="replace")] = _decode_feature(record, values, key)
    return features


def _decode_feature(record: bytes, values: list[tuple[int, int]], key: bytes) -> list[bytes] | np.ndarray:
    kind, lists = 1, []
    for number, wire, first, last in (field for value in values for field in _fields(record, *value)):
        if number not in _KINDS or wire != _BYTES:
            raise DataError(f"feature {key.decode(errors='replace')!r} has unknown type {number}")
        if number != kind:
            kind, lists = number, []
        lists.append((first, last))
    kind, wires = _KINDS[kind]
    items = [record[first:last] for span in lists for first, last in _spans(record, *span, wires)]
    if kind == "bytes":
        return items
    body = b"".join(items)  # numbers come packed into one item, or one by one: either way the same bytes in a row
    if kind == "int64":
        return _decode_varints(np.frombuffer(body, np.uint8), key)
    if len(body) % 4:
        raise DataError(f"feature {key.decode(errors='replace')!r}: {len(body)} bytes are no whole number of floats")
    return np.frombuffer(body, "<f4").astype(np.float32)


def _decode_varints(body: np.ndarray, key: bytes) -> np.ndarray:
    """Base-128 varints as bytes [m] to int64 [n]."""
    ends = np.flatnonzero(body < 0x80)
    lengths = np.diff(ends, prepend=-1).astype(np.int32)
    if len(body) and (not len(ends) or ends[-1] != len(body) - 1 or lengths.max() > 10):
        raise DataError(f"feature {key.decode(errors='replace')!r} holds a malformed integer")
    values = np.zeros(len(ends), np.uint64)
    for i in range(lengths.max(initial=0)):  # from the last, highest seven bits down
        values = np.where(lengths > i, values << np.uint64(7) | body[ends - i] & np.uint64(0x7F), values)
    return values.view(np.int64)


def _spans(record: bytes, start: int, stop: int, wires: tuple[int, ...] = (_BYTES,)) -> Iterator[tuple[int, int]]:
    """First byte and end of each field number 1, the only one that the messages around a feature have."""
    fields = _fields(record, start, stop)
    return ((first, last) for number, wire, first, last in fields if number == 1 and wire in wires)


def _fields(record: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in `record[position:end]`: number, wire type, first byte and end of the payload."""
    count = 0
    while position < end:
        if (count := count + 1) > MOST_FIELDS:
            raise DataError(f"malformed Example: more than {MOST_FIELDS} fields before byte {position}")
        tag, position = _varint(record, position, end)
        wire = tag & 7
        if wire == _BYTES:
            length, position = _varint(record, position, end)
            stop = position + length
        elif wire == _VARINT:
            stop = _varint(record, position, end)[1]
        elif wire in (_FIXED32, _FIXED64):
            stop = position + (4 if wire == _FIXED32 else 8)
        else:
            raise DataError(f"malformed Example: wire type {wire} at byte {position}")
        if stop > end:
            raise DataError(f"malformed Example: a field at byte {position} runs past the end of its message")
        yield tag >> 3, wire, position, stop
        position = stop


def _varint(record: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = record[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise DataError(f"malformed Example: an integer before byte {position} has no end")
