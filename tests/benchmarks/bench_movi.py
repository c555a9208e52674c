"""How fast MOVi-A is read: against a general TFRecord package, and with the flow fields there or not.

    python -m pytest -s tests/benchmarks/bench_movi.py

Needs `tfrecord` (and its dependencies crc32c and protobuf) for the comparison, which the workbook itself does not use;
without it only the cost of the flows is measured. The records have the size and all 45 keys of the real ones. Times
are the smallest of several runs, taken in turns on one thread, with the file in the page cache: only their ratios mean
anything.
"""

import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lib import ROOT
from lib.data.movi import FIELDS, MoviDataset
from lib.data.tfrecord import decode_example, scan_shard

sys.path.insert(0, str(ROOT / "data" / "make"))
from tfrecords import encode_example, write_records

MAKER = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_movi.py"))
SCENES, ROUNDS = 6, 7
LABELS = tuple(name for name in FIELDS if name not in ("video", "segmentations"))


def write(folder, flows):
    """One shard of scenes of 24 frames, 128 x 128; smooth images, so that a PNG is about as large as a rendered one."""
    folder.mkdir()
    records = []
    for seed in range(SCENES):
        values = dict(MAKER["features"](seed, frames=24, height=128, width=128, count=10, flows=flows))
        rng = np.random.default_rng(seed)
        ramps = np.add.outer(np.arange(128), np.arange(128))[None, :, :, None] * rng.random((24, 1, 1, 3)) * 0.9
        frames = (ramps + rng.integers(0, 4, (24, 128, 128, 3))).astype(np.uint8)
        masks = (ramps[..., 0] // 24).astype(np.uint8)
        values["video"] = [MAKER["png"](frame) for frame in frames]
        values["segmentations"] = [MAKER["png"](mask) for mask in masks]
        records.append(encode_example(values))
    path = folder / "movi_a-train.tfrecord-00000-of-00001"
    write_records(path, records)
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return write(folder / "with", True), write(folder / "without", False)


def fastest(*functions):
    """Seconds of the fastest run of each function; they take turns, so that a busy moment hits all alike."""
    seconds = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [min(times) for times in seconds]


def ours(path, fields=tuple(FIELDS)):
    return [scene for scene in MoviDataset(path.parent, fields=fields)]


def theirs(path, fields=tuple(FIELDS)):
    """The same arrays through the general package: it parses every record whole, and checks no checksum."""
    from tfrecord.reader import tfrecord_loader

    scenes = []
    for record in tfrecord_loader(str(path), None, [FIELDS[name] for name in fields]):
        scene = {name: record[FIELDS[name]] for name in fields if name in LABELS}
        for name in set(fields) - set(LABELS):
            scene[name] = MAKER["pixels"]([bytes(image) for image in record[name]])
        scenes.append(scene)
    return scenes


def show(what, ratio):
    print(f"\n{what}: {ratio:.2f}")


@pytest.mark.parametrize("fields", [LABELS, tuple(FIELDS)], ids=["labels only", "frames, masks and labels"])
def test_faster_than_a_general_package(paths, fields):
    pytest.importorskip("tfrecord")
    path = paths[0]
    for mine, other in zip(ours(path, fields), theirs(path, fields), strict=True):
        for name in fields:
            value = {"segmentations": mine.masks}.get(name, getattr(mine, name, None))
            np.testing.assert_array_equal(np.ravel(value), np.ravel(other[name]))
    seconds = fastest(lambda: ours(path, fields), lambda: theirs(path, fields))
    show(f"time of the package / time of ours, {' '.join(fields)}", seconds[1] / seconds[0])
    assert seconds[1] > seconds[0]


def test_flows_that_are_not_wanted(paths):
    sizes = [path.stat().st_size for path in paths]
    show("bytes with flows / bytes without", sizes[0] / sizes[1])
    for fields in (LABELS, tuple(FIELDS)):
        seconds = fastest(*(lambda path=path, fields=fields: ours(path, fields) for path in paths))
        show(f"time with flows in the file / without, {' '.join(fields)}", seconds[0] / seconds[1])
    assert seconds[0] < 1.25 * seconds[1]  # of whole scenes: what is left is reading the bytes and their checksum


def test_skipping_a_flow_in_the_parser(paths):
    records = []
    for path in paths:
        data = path.read_bytes()
        records.append([data[start : start + size] for start, size, _ in scan_shard(path)[0]])
    wanted = {FIELDS[name] for name in LABELS}
    parses = [lambda part=part: [decode_example(record, wanted) for record in part] for part in records]
    whole = lambda: [decode_example(record) for record in records[0]]  # noqa: E731
    seconds = fastest(*parses, whole)
    show("time to parse the labels with flows in the record / without", seconds[0] / seconds[1])
    show("time to parse every field / the labels", seconds[2] / seconds[0])
    assert seconds[0] < 2 * seconds[1]
