"""Features and input

Features are those of EfficientNet-Lite0 on the stand-in; scenes for MOVi-A's format have the size and all 45 keys of
the real ones, with smooth images, so that a PNG is about as large as a rendered one.
"""

import hashlib
import os
import runpy
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from lib import ROOT, features
from lib.data.movi import FIELDS, MoviDataset
from lib.data.tfrecord import decode_example, scan_shard
from lib.models import backbones
from lib.studies.roads.experiment import Batches, RoadStudy
from lib.training import Recipe

sys.path.insert(0, str(ROOT / "data" / "make"))
from tfrecords import encode_example, write_records

MAKER = runpy.run_path(str(Path(__file__).parents[1] / "data" / "test_movi.py"))
SCENES = 6
LABELS = tuple(name for name in FIELDS if name not in ("video", "segmentations"))


@pytest.mark.parametrize("what", ["an epoch", "building the cache"])
def test_features(compare, tmp_path, monkeypatch, what):
    """Tokens of 24 frames of the stand-in, 256 px, 32 x 32 tokens. An epoch: batches of 8 from the cache, against
    decoding and computing them each time. Building: decoding, computing and writing, against the bare backbone on
    frames that are decoded already.
    """
    data = MoviDataset(frames=slice(None, None, 8)).only(slice(8))
    network, folders = backbones.load("efficientnet_lite0", strides=(2, 4)), count()

    def build():
        monkeypatch.setattr(features, "FOLDER", tmp_path / str(next(folders)))
        features.FOLDER.mkdir()
        return features.compute(network, data, 256, 32)

    def epoch(found):
        for images in torch.arange(found.tokens.shape[0] * found.tokens.shape[1]).split(8):
            found.batch(images)

    if what == "an epoch":
        kept = build()
        computed = features.Computed(list(kept.tokens.shape), network, data, 256, 32)
        anew = features.Features(computed, kept.grid, kept.mean, kept.std, kept.about)
        torch.testing.assert_close(kept.batch(torch.arange(3)), anew.batch(torch.arange(3)), rtol=0.01, atol=0.01)
        functions = {"computed anew": partial(epoch, anew), "from the cache": partial(epoch, kept)}
    else:
        frames = torch.from_numpy(np.concatenate([scene.video for scene in data])).permute(0, 3, 1, 2).float() / 255
        parts = features.parts_of(frames, torch.device("cpu"))
        bare = lambda: [features.tokens_of(network, part, 256, 32) for part in parts]  # noqa: E731
        functions = {"bare backbone": bare, "building the cache": build}
    compare(what, functions, rounds=5)


def write(folder, flows):
    """One shard of scenes of 24 frames, 128 x 128."""
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


def ours(path, fields=tuple(FIELDS)):
    return iter(MoviDataset(path.parent, fields=fields))


def theirs(path, fields=tuple(FIELDS)):
    """The same arrays through the general package: it parses every record whole, and checks no checksum."""
    reader = pytest.importorskip("tfrecord.reader")
    for record in reader.tfrecord_loader(str(path), None, [FIELDS[name] for name in fields]):
        scene = {name: record[FIELDS[name]] for name in fields if name in LABELS}
        for name in set(fields) - set(LABELS):
            scene[name] = MAKER["pixels"]([bytes(image) for image in record[name]])
        yield scene


@pytest.fixture(scope="module")
def tensorflow(paths):
    """`tensorflow(what, count)` reads so many scenes there, and its name; none where it is not installed."""
    home = ROOT / ".venv-tfds"
    if not (home / "ready").exists():
        yield {}
        return
    command = [home / "bin" / "python", Path(__file__).with_name("tfds_peer.py"), paths[0]]
    quiet = {"env": os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1, **quiet) as process:
        version, under = process.stdout.readline().split()

        def read(what, count, wish="read"):
            process.stdin.write(f"{what} {count} {wish}\n")
            return process.stdout.readline().strip()

        yield {f"tensorflow-datasets {version}, TensorFlow {under}": read}
        process.stdin.close()


@pytest.mark.parametrize("what", ["labels only", "frames, masks and labels", "the first scene"])
def test_scenes(compare, paths, tensorflow, what):
    """Scenes of MOVi-A's format, the file in the page cache: this workbook's reader against the package tfrecord,
    which parses every record whole and checks no checksum, and, where it can be installed, tensorflow-datasets in a
    process of its own, which reads ahead with all cores. The same arrays come out. The first scene includes opening the
    shard; memory after ten passes is that of the process, against after two.
    """
    fields = LABELS if what == "labels only" else tuple(FIELDS)
    for mine, other in zip(ours(paths[0], fields), theirs(paths[0], fields), strict=True):
        for name in fields:
            value = {"segmentations": mine.masks}.get(name, getattr(mine, name, None))
            np.testing.assert_array_equal(np.ravel(value), np.ravel(other[name]))
    end, facts = (next if what == "the first scene" else list), {}
    if fields != LABELS and end is list:
        held = [list(ours(paths[0])) and psutil.Process().memory_info().rss for _ in range(10)]
        facts = {"memory after ten passes / after two": held[9] / held[1]}
    functions = {"package tfrecord": lambda: end(theirs(paths[0], fields)), "ours": lambda: end(ours(paths[0], fields))}
    for name, read in tensorflow.items():
        asked = ("labels" if fields == LABELS else "all", 1 if end is next else SCENES)
        assert read(*asked, "digest") == digest(list(ours(paths[0], fields))[asked[1] - 1])
        functions[name] = partial(read, *asked)
    seconds = compare(f"scenes: {what}", functions, facts)
    assert np.median(seconds["package tfrecord"]) > np.median(seconds["ours"])


def digest(scene):
    """As of tfds_peer.py."""
    arrays = [scene.material, scene.shape, scene.size, scene.color, scene.visibility, scene.video, scene.masks]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays if a is not None)).hexdigest()


@pytest.mark.parametrize("what", ["labels only", "frames, masks and labels", "the parser alone, labels"])
def test_flows(compare, paths, what):
    """What the flow fields cost that nobody asked for: the same scenes with them in the file, and without. Of whole
    scenes, what is left is reading the bytes and their checksum; the parser jumps over them.
    """
    names = ("with flows", "without flows")
    if what.startswith("the parser"):
        parts = []
        for path in paths:
            data = path.read_bytes()
            parts.append([data[start : start + size] for start, size, _ in scan_shard(path)[0]])
        wanted = {FIELDS[name] for name in LABELS}
        parse = lambda part, keys=wanted: [decode_example(record, keys) for record in part]  # noqa: E731
        functions = {name: partial(parse, part) for name, part in zip(names, parts, strict=True)}
        functions["with flows, every field"] = partial(parse, parts[0], None)
    else:
        fields = LABELS if what == "labels only" else tuple(FIELDS)
        functions = {n: lambda p=p: list(ours(p, fields)) for n, p in zip(names, paths, strict=True)}
    sizes = [path.stat().st_size for path in paths]
    seconds = compare(f"flows: {what}", functions, {"bytes with flows / without": sizes[0] / sizes[1]})
    most = {"labels only": np.inf, "frames, masks and labels": 1.25}.get(what, 2.0)
    assert np.median(seconds[names[0]]) < most * np.median(seconds[names[1]])


def test_road_frames(compare):
    """Batches of 4 windows of 128 x 128 px of the stand-in's road frames, every augmentation on, kept decoded: made in
    the process that trains, or ahead by one or two workers; 40 batches, with the start of the workers.
    """
    study = RoadStudy()
    full = {"crops": "true", "scale": (0.5, 2.0), "flip": "joint", "degrees": 5.0, "colour": True, "blur": True}
    batches = Batches(study.split("train"), Recipe(40, study.batch), study.transform(full, (128, 128)))
    for i in range(len(batches.frames)):
        batches.frames[i]  # decoded once, before anybody is forked
    load = lambda workers: list(DataLoader(batches, None, sampler=range(40), num_workers=workers))  # noqa: E731
    compare("road frames", {f"{n} workers": partial(load, n) for n in (0, 1, 2)}, rounds=5)
