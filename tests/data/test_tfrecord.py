import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfrecords import encode_example, read_records, write_records

from lib.data import DataError
from lib.data.tfrecord import (
    decode_example,
    masked_crc32c,
    read_record,
    scan_shard,
)


def slow_crc32c(data):
    """CRC32C bit by bit, from its polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def framed(data):
    """One record, built without the code under test."""

    def masked(part):
        crc = slow_crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "some.tfrecord-00000-of-00001"
    write_records(path, [b"first", b"", b"third" * 50])
    return path


def rewrite(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def test_crc_is_the_castagnoli_one_masked():
    assert slow_crc32c(b"123456789") == 0xE3069283  # the check value of the polynomial
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_shards_hold_what_was_written_in_the_framing_of_tensorflow(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("shard") / "x"
    assert write_records(path, iter(records)) == len(records)
    assert path.read_bytes() == b"".join(map(framed, records))
    assert list(read_records(path)) == records


def test_a_shard_appears_whole_or_not_at_all(shard):
    before = shard.read_bytes()

    def breaks():
        yield b"new"
        assert shard.read_bytes() == before
        raise RuntimeError("out of scenes")

    with pytest.raises(RuntimeError, match="out of scenes"):
        write_records(shard, breaks())
    assert shard.read_bytes() == before
    assert os.listdir(shard.parent) == [shard.name]


def test_scan_finds_offsets_lengths_and_checksums(shard):
    records, damage = scan_shard(shard)
    assert damage is None
    assert [place[:2] for place in records] == [[12, 5], [33, 0], [49, 250]]
    assert records[0][2] == masked_crc32c(b"first")
    assert read_record(shard, *records[2]) == b"third" * 50


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "x").touch()
    assert scan_shard(tmp_path / "x") == ([], None)


def test_every_cut_that_is_not_between_records_shows(shard):
    whole = shard.read_bytes()
    ends = [0, 21, 37, len(whole)]
    for cut in range(len(whole)):
        shard.write_bytes(whole[:cut])
        records, damage = scan_shard(shard)
        complete = sum(end <= cut for end in ends) - 1
        assert len(records) == complete
        assert (damage is None) == (cut in ends), cut
        if damage:
            assert damage.startswith(f"record {complete} at byte {ends[complete]}: ")


def test_every_flipped_bit_shows(shard):
    whole = shard.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(changed)
        with pytest.raises(DataError, match=r"some\.tfrecord.*record \d"):
            list(read_records(shard))


def test_records_before_the_damage_are_still_read(shard):
    rewrite(shard, lambda data: data.__setitem__(37, data[37] ^ 1))  # the third length
    reader = read_records(shard)
    assert [next(reader), next(reader)] == [b"first", b""]
    with pytest.raises(DataError, match="record 2 at byte 37: crc mismatch in the length"):
        next(reader)


def test_an_announced_length_beyond_the_file_is_not_allocated(tmp_path):
    length = struct.pack("<Q", 2**60)
    (tmp_path / "x").write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"abc")
    assert scan_shard(tmp_path / "x")[1] == f"record 0 at byte 0: {2**60} bytes announced, 0 left in the file"


# The wire format by hand: what TensorFlow writes, and what other protobuf writers may write instead.
def field(number, payload):
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def example(*entries):
    return field(1, b"".join(field(1, entry) for entry in entries))


BYTES = field(1, b"k") + field(2, field(1, field(1, b"one") + field(1, b"")))
FLOATS = field(1, b"k") + field(2, field(2, field(1, struct.pack("<2f", 0.5, -2))))
INTS = field(1, b"k") + field(2, field(3, field(1, b"\x07\xac\x02" + b"\xff" * 9 + b"\x01")))


@pytest.mark.parametrize(
    ("value", "entry"),
    [([b"one", b""], BYTES), (np.array([[0.5], [-2]]), FLOATS), ([7, 300, -1], INTS)],
    ids=["bytes", "floats", "ints"],
)
def test_examples_in_the_bytes_that_protobuf_defines(value, entry):
    assert encode_example({"k": value}) == example(entry)
    np.testing.assert_array_equal(decode_example(example(entry))["k"], np.ravel(value) if entry != BYTES else value)


def test_numbers_that_come_one_by_one_are_read_as_well():
    ints = field(1, b"i") + field(2, field(3, b"\x08\x07\x08\xac\x02"))
    floats = field(1, b"f") + field(2, field(2, b"\x0d" + struct.pack("<f", 0.5) + b"\x0d" + struct.pack("<f", 4)))
    decoded = decode_example(example(ints, floats))
    assert decoded["i"].tolist() == [7, 300]
    assert decoded["f"].tolist() == [0.5, 4]


def test_an_empty_list_keeps_its_kind():
    empty = {"b": [], "f": np.zeros(0), "i": np.zeros((0, 24), int)}
    decoded = decode_example(encode_example(empty))
    assert decoded["b"] == []
    assert decoded["f"].dtype == np.float32
    assert decoded["i"].dtype == np.int64
    assert encode_example({"i": np.zeros(0, int)}) == example(field(1, b"i") + field(2, field(3, b"")))


def test_a_value_before_its_key_and_unknown_fields_are_fine():
    turned = field(2, field(3, field(1, b"\x07"))) + field(1, b"k")
    strange = b"\x28\x05" + field(6, b"later version") + b"\x3d1234" + b"\x4112345678"
    assert decode_example(strange + example(strange + turned))["k"].tolist() == [7]


def test_of_a_key_that_comes_twice_the_last_counts():
    second = field(1, b"k") + field(2, field(3, field(1, b"\x09")))
    assert decode_example(example(INTS, second))["k"].tolist() == [9]


def test_only_what_is_wanted_is_looked_at():
    broken = field(1, b"broken") + field(2, b"\xff\xff\xff\xff")
    record = example(broken, INTS)
    assert decode_example(record, {"k", "absent"})["k"].tolist() == [7, 300, -1]
    assert decode_example(record, {"k", "absent"}).keys() == {"k"}
    with pytest.raises(DataError, match="malformed"):
        decode_example(record)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (example(field(1, b"k") + field(2, field(4, b""))), "'k' has unknown type 4"),
        (example(field(1, b"k") + field(2, b"\x18\x07")), "'k' has unknown type 3"),
        (example(field(1, b"k") + field(2, field(3, field(1, b"\x80")))), "'k' holds a malformed integer"),
        (example(field(1, b"k") + field(2, field(3, field(1, b"\x80" * 10 + b"\x01")))), "'k' holds a malformed"),
        (example(field(1, b"k") + field(2, field(2, field(1, b"123")))), "'k': 3 bytes"),
        (example(INTS)[:-1], "runs past the end"),
        (b"\x0b", "wire type 3"),
        (b"\x80" * 11, "has no end"),
        (b"\x0a", "has no end"),
    ],
)
def test_malformed_examples_say_what_is_wrong(record, match):
    with pytest.raises(DataError, match=match):
        decode_example(record)


@pytest.mark.parametrize("value", ["text", ["text"], np.array([1j]), None, np.array([2**63], np.uint64), [b"a", 1]])
def test_what_an_example_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="^k: "):
        encode_example({"k": value})


FEATURES = st.dictionaries(
    st.text(max_size=5),
    st.one_of(
        st.lists(st.binary(max_size=9), max_size=4),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9).map(lambda x: np.array(x, np.int64)),
        st.lists(st.floats(width=32), max_size=4).map(lambda x: np.array(x, np.float32)),
    ),
    max_size=4,
)


@given(FEATURES, st.data())
def test_decoding_undoes_encoding_and_wanted_selects(features, data):
    wanted = data.draw(st.sets(st.sampled_from([*features, "absent"])))
    record = encode_example(features)
    for decoded, keys in (decode_example(record), features), (decode_example(record, wanted), wanted & features.keys()):
        assert decoded.keys() == set(keys)
        for key, value in decoded.items():
            np.testing.assert_array_equal(value, features[key])
            assert isinstance(value, list) or value.dtype == features[key].dtype


@given(FEATURES, st.data())
def test_garbage_is_a_data_error_and_nothing_else(features, data):
    record = bytearray(encode_example(features) + data.draw(st.binary(max_size=4)))
    for _ in range(data.draw(st.integers(1, 3)) if record else 0):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_example(bytes(record))
    except DataError:
        pass


# What protobuf's own parser returns for messages that come twice, or with fields of another wire type.
KEY, ONE, TWO = field(1, b"k"), field(3, field(1, b"\x01")), field(3, field(1, b"\x02"))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (KEY + field(2, ONE) + field(2, TWO), [1, 2]),
        (KEY + field(2, ONE + TWO), [1, 2]),
        (KEY + field(2, ONE + field(2, b"")), []),
        (KEY + field(2, ONE + field(2, b"") + TWO), [2]),
        (KEY + field(2, ONE) + field(2, field(1, field(1, b"x"))), [b"x"]),
        (KEY + field(2, field(3, b"\x09" + b"12345678" + b"\x08\x03")), [3]),
        (KEY + b"\x10\x05" + field(2, ONE), [1]),
    ],
    ids=["value", "list", "another kind", "and back", "another kind of value", "fixed64 in a list", "varint as value"],
)
def test_messages_that_come_twice_are_merged(entry, expected):
    assert list(decode_example(example(entry))["k"]) == expected


def test_features_that_come_twice_are_merged():
    assert decode_example(example(KEY + field(2, ONE)) + example(field(1, b"j") + field(2, TWO))).keys() == {"k", "j"}


def long_field(number, payload):
    size = len(payload)
    return bytes([number << 3 | 2, *(size >> 7 * i & 127 | 128 for i in range(4)), size >> 28]) + payload


@pytest.mark.parametrize(
    "numbers", [b"\x08\x07" * 5_000_000, b"\x0d\x00\x00\x00\x00" * 2_000_000], ids=["integers", "floats"]
)
def test_ten_megabytes_of_numbers_one_by_one_are_refused(in_time, numbers):
    feature = long_field(3 if numbers[0] == 8 else 2, numbers)
    record = long_field(1, long_field(1, KEY + long_field(2, feature)))
    with pytest.raises(DataError, match="malformed Example: more than 1048576 fields"):
        decode_example(record)


def test_packed_numbers_are_read_in_bounded_memory():
    values = np.random.default_rng(0).integers(0, 2**16, 1_000_000)
    record = encode_example({"k": values})
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(decode_example(record)["k"], values)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_a_length_of_200_gigabytes_in_a_sparse_file(tmp_path, in_time):
    size = 200 * 10**9
    length = struct.pack("<Q", size)
    with (tmp_path / "x").open("wb") as file:
        file.write(length + struct.pack("<I", masked_crc32c(length)))
        file.truncate(12 + size + 4)
    with pytest.raises(DataError, match=f"^x: record 0 is damaged .{size} bytes at byte 12, at most"):
        next(read_records(tmp_path / "x"))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("absent", path)])
def test_pipes_and_folders_are_no_shards(tmp_path, in_time, make):
    make(tmp_path / "x")
    with pytest.raises(DataError, match="x cannot be read: "):
        scan_shard(tmp_path / "x")
    with pytest.raises(DataError, match="x cannot be read: "):
        read_record(tmp_path / "x", 12, 3, 0)
