"""Which shards there are and should be, and where their records start; records may hold anything."""

import json

import pytest
from tfrecords import write_records

from lib.data import DataError
from lib.data.shards import CHECKSUMS, find_shards, index_shards, recorded, recorded_lengths, remedy
from lib.data.tfrecord import read_record


@pytest.fixture
def folder(tmp_path):
    """Three shards of a download at 256 px, of two, one and no records."""
    folder = tmp_path / "movi_a" / "256x256" / "1.0.0"
    folder.mkdir(parents=True)
    for i, records in enumerate(([b"a", b"bb"], [b"ccc"], [])):
        write_records(folder / f"movi_a-train.tfrecord-{i:05d}-of-00003", records)
    info = {"splits": [{"name": "train", "shardLengths": ["2", "1", "0"]}, {"name": "validation"}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("up", [0, 2, 3])
def test_shards_are_found_from_their_folder_or_above_it(folder, up):
    root = (folder, *folder.parents)[up]
    found = find_shards(root, "train")
    assert [path.name[-14:] for path in found] == ["00000-of-00003", "00001-of-00003", "00002-of-00003"]
    assert {path.parent for path in found} == {folder}


def test_what_is_not_found_or_found_twice(folder, tmp_path):
    with pytest.raises(DataError, match="no split 'test'; there is train; .*--split validation` gets MOVi-A"):
        find_shards(tmp_path, "test")
    with pytest.raises(DataError, match="no split 'train'; there are no movi_a-"):
        find_shards(tmp_path / "absent", "train")
    other = tmp_path / "movi_a" / "128x128" / "1.0.0"
    other.mkdir(parents=True)
    write_records(other / "movi_a-train.tfrecord-00000-of-00001", [])
    with pytest.raises(DataError, match="is in several folders .movi_a/.*; pass one as root"):
        find_shards(tmp_path, "train")


def test_the_index_leads_to_the_records(folder):
    paths = find_shards(folder, "train")
    index, faults = index_shards(paths)
    assert faults == [] and [len(records) for records in index] == [2, 1, 0]
    data = [read_record(path, *place) for path, places in zip(paths, index, strict=True) for place in places]
    assert data == [b"a", b"bb", b"ccc"]


def test_every_fault_of_a_set_is_told(folder):
    paths = find_shards(folder, "train")
    paths[0].write_bytes(paths[0].read_bytes()[:-3])
    write_records(paths[1], [b"ccc", b"d"])
    paths[2].unlink()
    faults = index_shards(paths[:2])[1]
    assert [line.partition(": ")[0][-14:-9] for line in faults] == ["00002", "00000", "00001"]
    assert "is missing" in faults[0] and "record 1 at byte" in faults[1]
    assert faults[2].endswith("2 records, dataset_info.json says 1")
    (folder / "dataset_info.json").unlink()
    write_records(paths[1], [])
    assert index_shards(paths[:2])[1][2].endswith("the file is empty")


def test_after_a_download_of_some_only_those_are_due(folder):
    paths = find_shards(folder, "train")
    sums = {path.name: "0a" * 16 for path in paths[:2]}
    (folder / CHECKSUMS).write_text(json.dumps(sums))
    assert recorded(folder) == sums and index_shards(paths[:2])[1] == []
    assert index_shards(paths[1:2])[1] == [f"{paths[0].name}: the shard is missing"]
    with pytest.raises(DataError, match="of-00003 and 00004; keep one set a folder"):
        index_shards([paths[0], paths[1].rename(folder / "movi_a-train.tfrecord-00001-of-00004")])


def test_side_files_may_be_missing_or_silent(folder):
    path = find_shards(folder, "train")[0]
    assert recorded_lengths(path) == [2, 1, 0]
    assert recorded_lengths(folder / "movi_a-validation.tfrecord-00000-of-00001") == []
    (folder / "dataset_info.json").unlink()
    assert recorded_lengths(path) == [] and recorded(folder) == {}


def test_the_remedy_is_the_command_that_got_them(folder):
    assert remedy(find_shards(folder, "train")).endswith("movi_a --split train --resolution 256`")
