import functools
import io
import json
import os
import pickle
import struct
import zlib
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tfrecords import encode_example, write_records
from torch.utils.data import DataLoader

from lib import ROOT
from lib.data import DataError
from lib.data.movi import COLORS, FIELDS, MATERIALS, SHAPES, SIZES, MoviDataset, decode_scene

T, H, W, N = 3, 10, 8, 4
STEM = "movi_a-train.tfrecord"


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def png16(pixels):
    """A 16-bit RGB PNG, which Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@functools.lru_cache(maxsize=64)
def features(seed=0, frames=T, height=H, width=W, count=N, flows=True):
    """The 45 keys of a MOVi-A record as TensorFlow Datasets lays them out, filled with noise.

    Object 1 (id 2) is hidden in frame 0: without it the visible ids are not a range.
    """
    rng = np.random.default_rng(seed)
    pixels = lambda *shape, high=256: rng.integers(0, high, shape)  # noqa: E731
    masks = pixels(frames, height, width, high=count + 1).astype(np.uint8)
    masks[0][masks[0] == 2] = 0
    visibility = np.stack([(masks == i + 1).sum((1, 2)) for i in range(count)])
    shown = [np.flatnonzero(row) for row in visibility]
    lengths = np.array([len(row) for row in shown])
    flat = lambda *shape: rng.normal(size=shape).astype(np.float32).ravel()  # noqa: E731
    values = {
        "video": [png(frame) for frame in pixels(frames, height, width, 3).astype(np.uint8)],
        "segmentations": [png(mask) for mask in masks],
        "depth": [png(depth) for depth in pixels(frames, height, width, high=2**16).astype(np.uint16)],
        "normal": [png16(normal) for normal in pixels(frames, height, width, 3, high=2**16)],
        "object_coordinates": [png16(place) for place in pixels(frames, height, width, 3, high=2**16)],
        "metadata/video_name": [f"movi_a_{seed:04d}".encode()],
        "metadata/width": [width],
        "metadata/height": [height],
        "metadata/num_frames": [frames],
        "metadata/num_instances": [count],
        "metadata/depth_range": flat(2),
        "metadata/forward_flow_range": flat(2),
        "metadata/backward_flow_range": flat(2),
        "instances/material_label": pixels(count, high=len(MATERIALS)),
        "instances/shape_label": pixels(count, high=len(SHAPES)),
        "instances/size_label": pixels(count, high=len(SIZES)),
        "instances/color_label": pixels(count, high=len(COLORS)),
        "instances/color": flat(count, 3),
        "instances/visibility": visibility.ravel(),  # instance-major
        "instances/mass": flat(count),
        "instances/friction": flat(count),
        "instances/restitution": flat(count),
        "instances/positions": flat(count, frames, 3),
        "instances/quaternions": flat(count, frames, 4),
        "instances/velocities": flat(count, frames, 3),
        "instances/angular_velocities": flat(count, frames, 3),
        "instances/bboxes_3d": flat(count, frames, 8, 3),
        "instances/image_positions": flat(count, frames, 2),
        "instances/bboxes/ragged_flat_values": flat(lengths.sum(), 4),
        "instances/bboxes/ragged_row_lengths_0": lengths,
        "instances/bbox_frames/ragged_flat_values": np.concatenate([*shown, np.zeros(0, int)]),
        "instances/bbox_frames/ragged_row_lengths_0": lengths,
        "camera/positions": flat(frames, 3),
        "camera/quaternions": flat(frames, 4),
        "camera/focal_length": flat(1),
        "camera/sensor_width": flat(1),
        "camera/field_of_view": flat(1),
        "events/collisions/instances": np.zeros((0, 2), np.int64),  # nothing collided: empty, but of a kind
        "events/collisions/frame": np.zeros(0, np.int64),
        "events/collisions/force": np.zeros(0, np.float32),
        "events/collisions/image_position": np.zeros((0, 2), np.float32),
        "events/collisions/contact_normal": np.zeros((0, 3), np.float32),
        "events/collisions/position": np.zeros((0, 3), np.float32),
    }
    if flows:
        for key in ("forward_flow", "backward_flow"):
            values[key] = pixels(frames, height, width, 2, high=2**16).ravel()
    order = rng.permutation(list(values))  # a protobuf map has no order
    return {key: values[key] for key in order}


def record(seed=0, without=(), **changes):
    values = {**features(seed), **changes}
    return encode_example({key: value for key, value in values.items() if key not in without})


@pytest.fixture
def root(tmp_path):
    """Six scenes in three shards."""
    folder = tmp_path / "movi_a"
    folder.mkdir()
    for shard in range(3):
        write_records(folder / f"{STEM}-{shard:05d}-of-00003", [record(2 * shard), record(2 * shard + 1)])
    return folder


def shards(root):
    return sorted(root.glob("*.tfrecord-*"))


def rewrite(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def pixels(images):
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])


def test_the_names_of_the_classes_are_those_of_the_labels():
    assert MATERIALS == ("metal", "rubber")
    assert SHAPES == ("cube", "cylinder", "sphere")
    assert SIZES == ("small", "large")
    assert COLORS == ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")


def test_a_scene_is_what_the_record_says(root):
    data = MoviDataset(root)
    assert len(data) == 6
    for i, scene in enumerate(data):
        expected = features(i)
        assert scene.name == f"movi_a_{i:04d}"
        assert (scene.video.dtype, scene.video.shape) == (np.uint8, (T, H, W, 3))
        assert (scene.masks.dtype, scene.masks.shape) == (np.uint8, (T, H, W))
        np.testing.assert_array_equal(scene.video, pixels(expected["video"]))
        np.testing.assert_array_equal(scene.masks, pixels(expected["segmentations"]))
        for name in ("material", "shape", "size", "color"):
            np.testing.assert_array_equal(getattr(scene, name), expected[f"instances/{name}_label"])
        counts = [[(scene.masks[t] == n + 1).sum() for t in range(T)] for n in range(N)]
        np.testing.assert_array_equal(scene.visibility, counts)
        assert scene.extra == {}
    assert i == 5


def test_a_scene_cannot_be_changed_by_accident(root):
    with pytest.raises(FrozenInstanceError):
        MoviDataset(root)[0].masks = None


def test_indices_behave_as_those_of_a_list(root):
    data = MoviDataset(root)
    names = [scene.name for scene in data]
    assert [data[-i].name for i in range(1, 7)] == names[::-1]
    assert [scene.name for scene in data[1:5:2]] == names[1:5:2]
    assert [scene.name for scene in data[::-1]] == names[::-1]
    assert data[7:] == []
    assert data[np.int64(2)].name == names[2]
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"scene {index} of 6 in split 'train'"):
            data[index]
    for index in ("0", 1.0, None):
        with pytest.raises(TypeError):
            data[index]


def test_only_the_fields_asked_for_are_decoded(root):
    scene = MoviDataset(root, fields=("material",))[0]
    assert scene.video is None and scene.masks is None and scene.visibility is None and scene.shape is None
    assert scene.material.shape == (N,)
    masks = MoviDataset(root, fields="segmentations")[0]
    assert masks.video is None and masks.masks.shape == (T, H, W)


def test_other_keys_come_as_the_record_has_them(root):
    scene = MoviDataset(root, fields=("forward_flow", "depth", "instances/friction"))[1]
    assert scene.extra.keys() == {"forward_flow", "depth", "instances/friction"}
    for key, value in scene.extra.items():
        np.testing.assert_array_equal(value, features(1)[key])
    with pytest.raises(ValueError, match="unknown fields \\['masks'\\]"):
        MoviDataset(root, fields=("video", "masks"))


@pytest.mark.parametrize(
    ("frames", "chosen"),
    [(slice(None, None, 2), [0, 2]), (slice(-1, None), [2]), ([2, 0], [2, 0]), ((-1,), [2]), (range(2), [0, 1])],
)
def test_chosen_frames(root, frames, chosen):
    scene, whole = MoviDataset(root, frames=frames)[0], MoviDataset(root)[0]
    np.testing.assert_array_equal(scene.video, whole.video[chosen])
    np.testing.assert_array_equal(scene.masks, whole.masks[chosen])
    np.testing.assert_array_equal(scene.visibility, whole.visibility[:, chosen])


def test_frames_that_are_not_chosen_are_not_decoded():
    images = [*features()["video"][:2], b"garbage"]
    assert decode_scene(record(video=images), frames=slice(2)).video.shape[0] == 2
    with pytest.raises(DataError, match="frame 2"):
        decode_scene(record(video=images))


@pytest.mark.parametrize("frames", [(), slice(0, 0), [T], [0, -T - 1], [10**20]])
def test_frames_that_no_scene_has(root, frames):
    with pytest.raises(ValueError, match=f"a scene has {T} frames") as error:
        MoviDataset(root, frames=frames)[0]
    assert not isinstance(error.value, DataError)  # no file is at fault


def test_jpeg_frames_are_read_and_jpeg_masks_refused():
    smooth = np.linspace(0, 255, H * W * 3).reshape(H, W, 3).astype(np.uint8)
    jpeg = png(smooth, format="JPEG", quality=95)
    assert np.abs(decode_scene(record(video=[jpeg] * T)).video - smooth.astype(int)).mean() < 8
    mask = png(np.zeros((H, W), np.uint8), format="JPEG")
    with pytest.raises(DataError, match="segmentations: frame 0 is not readable"):
        decode_scene(record(segmentations=[mask] * T))


# ------------------------------------------------------------------------------------------- material by id


def test_the_bug_of_the_original_study_hidden_objects_shift_every_later_material():
    material = np.array([0, 1, 0, 1])
    scene = decode_scene(record(**{"instances/material_label": material}))
    frame = scene.masks[0]
    visible = np.unique(frame)[1:]
    assert visible.tolist() == [1, 3, 4]  # object id 2 is hidden in this frame
    by_rank = {i: material[rank] for rank, i in enumerate(visible)}  # what the original computed
    by_id = {i: scene.material[i - 1] for i in visible}
    assert by_id == {1: 0, 3: 0, 4: 1}
    assert by_rank == {1: 0, 3: 1, 4: 0}  # both objects behind the hidden one have the wrong material
    nothing_hidden = np.unique(scene.masks[1])[1:]
    assert nothing_hidden.tolist() == [1, 2, 3, 4]
    assert [material[rank] for rank in range(4)] == scene.material[nothing_hidden - 1].tolist()


# ------------------------------------------------------------------------------------------- folders and splits


def test_the_folders_of_tensorflow_datasets(tmp_path, root):
    nested = tmp_path / "tfds" / "movi_a" / "128x128" / "1.0.0"
    nested.parent.mkdir(parents=True)
    root.rename(nested)
    for above in (nested, tmp_path / "tfds" / "movi_a", tmp_path / "tfds"):
        assert len(MoviDataset(above)) == 6
    assert len(MoviDataset(tmp_path / "tfds", fields=())) == 6
    other = tmp_path / "tfds" / "movi_a" / "256x256" / "1.0.0"
    other.mkdir(parents=True)
    write_records(other / f"{STEM}-00000-of-00001", [record(), record()])
    with pytest.raises(DataError, match=r"several folders \(.*256x256.*\); pass one"):
        MoviDataset(tmp_path / "tfds")
    assert len(MoviDataset(other)) == 2


def test_a_wrong_split_or_root(tmp_path, root):
    with pytest.raises(DataError, match=r"no split 'valid'; there is train; .*lib\.data\.download movi_a"):
        MoviDataset(root, "valid")
    for nothing in (tmp_path, tmp_path / "absent", shards(root)[0]):
        with pytest.raises(DataError, match=r"there are no movi_a-\*\.tfrecord"):
            MoviDataset(nothing)


def test_shards_of_two_sets_in_one_folder(root):
    write_records(root / f"{STEM}-00000-of-00004", [record()])
    with pytest.raises(DataError, match="shards of different sets, of-00003 and 00004"):
        MoviDataset(root)


# ------------------------------------------------------------------------------------------- damage

DAMAGE = {
    "missing": (lambda path: path.unlink(), "the shard is missing"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "cut in a header": (lambda path: path.write_bytes(path.read_bytes()[:5]), "record 0 at byte 0: the file ends"),
    "cut in a record": (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"record 1 at byte \d+: \d+ bytes"),
    "a bit of a length": (
        lambda path: rewrite(path, lambda d: d.__setitem__(2, 9)),
        "record 0 at byte 0: crc mismatch",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_framing_is_seen_at_once(root, damage):
    change, match = DAMAGE[damage]
    change(shards(root)[1])
    with pytest.raises(DataError, match=rf"^{STEM}-00001-of-00003: {match}.*get it anew with `"):
        MoviDataset(root)


CONTENT = {
    "garbage PNG": (
        {"video": [b"\x89PNG\r\n\x1a\ngarbage"] * T},
        r"video: frame 0 is not readable \(it is no intact PNG",
    ),
    "cut PNG": ({"segmentations": [x[:-30] for x in features()["segmentations"]]}, "segmentations: frame 0"),
    "no PNG": ({"segmentations": [b""] * T}, "segmentations: frame 0"),
    "another size": ({"video": [png(np.zeros((H, W + 1, 3), np.uint8))] * T}, r"'RGB', 10, 9\) where .*8\) is due"),
    "gray video": ({"video": features()["segmentations"]}, "'L', 10, 8"),
    "16-bit masks": ({"segmentations": features()["depth"]}, "'I;16', 10, 8"),
    "a frame less": ({"video": features()["video"][:-1]}, "video: 2 values where 3 images are due"),
    "numbers for frames": ({"video": np.zeros(T, int)}, "video: 3 values where 3 images are due"),
    "an id too many": ({"metadata/num_instances": [1]}, "instances/material_label: 4 values where 1 integers"),
    "a label too many": ({"instances/shape_label": [0] * (N + 1)}, "instances/shape_label: 5 values where 4"),
    "an unknown label": ({"instances/material_label": [0, 1, 2, 0]}, "values from 0 to 2, known are 0 to 1"),
    "a negative label": ({"instances/size_label": [0, -1, 0, 0]}, "values from -1 to 0"),
    "floats for labels": ({"instances/color_label": np.zeros(N)}, "4 values where 4 integers are due"),
    "bytes for labels": ({"instances/color_label": [b""] * N}, "4 values where 4 integers are due"),
    "ragged visibility": ({"instances/visibility": [0] * (N * T - 1)}, "11 values where 12 integers"),
    "no number of frames": ({"metadata/num_frames": np.zeros(0, int)}, r"metadata/num_frames: \[\]"),
    "negative frames": ({"metadata/num_frames": [-3]}, r"metadata/num_frames: \[-3\] where one number from 1"),
    "a height of nothing": ({"metadata/height": [0]}, r"metadata/height: \[0\]"),
    "a negative number of objects": (
        {"metadata/num_instances": [-1]},
        r"metadata/num_instances: \[-1\] where one number from 0",
    ),
    "huge frames": (
        {"metadata/num_frames": [2**62], "metadata/height": [2**62]},
        f"{2**62} frames of {2**62} x 8 px are more",
    ),
    "a name in numbers": ({"metadata/video_name": [1]}, r"metadata/video_name: \[1\] where one name"),
    "a missing key": (None, "no key instances/visibility, video in the record"),
}


@pytest.mark.parametrize("case", CONTENT)
def test_damaged_content_with_a_valid_crc_names_shard_record_and_remedy(root, case):
    changes, match = CONTENT[case]
    damaged = record(without=("video", "instances/visibility")) if changes is None else record(**changes)
    write_records(shards(root)[1], [record(2), damaged])
    data = MoviDataset(root)
    assert data[2].name == "movi_a_0002"
    with pytest.raises(DataError, match=rf"^{STEM}-00001-of-00003: record 1 is damaged \(.*{match}.*\); get it anew"):
        data[3]
    with pytest.raises(DataError, match=match):
        list(data)


def test_a_mask_with_more_ids_than_objects():
    masks = [png(np.full((H, W), N + 1, np.uint8))] * T
    with pytest.raises(DataError, match="segmentations: id 5 in a scene of 4 objects"):
        decode_scene(record(segmentations=masks), fields=("segmentations",))


def test_a_feature_of_an_unknown_type():
    kind = b"\x0a\x05video\x12\x02\x22\x00"  # map entry: key "video", a Feature whose only field has number 4
    whole = record(without=("video",)) + b"\x0a" + bytes([len(kind) + 2]) + b"\x0a" + bytes([len(kind)]) + kind
    with pytest.raises(DataError, match="feature 'video' has unknown type 4"):
        decode_scene(whole)
    assert decode_scene(whole, fields=("material",)).material.shape == (N,)


def test_a_flipped_byte_in_the_data(root):
    rewrite(shards(root)[2], lambda data: data.__setitem__(200, data[200] ^ 64))
    data = MoviDataset(root)
    with pytest.raises(DataError, match=rf"^{STEM}-00002-of-00003: record 0 is damaged \(crc mismatch"):
        data[4]


def test_a_shard_that_goes_away_while_it_is_in_use(root):
    data = MoviDataset(root)
    shards(root)[0].unlink()
    with pytest.raises(DataError, match="record 0 is damaged .*No such file"):
        data[0]


def write_info(root, *lengths):
    info = {"name": "movi_a", "splits": [{"name": "train", "shardLengths": [str(n) for n in lengths]}]}
    (root / "dataset_info.json").write_text(json.dumps(info))


def test_a_shard_cut_between_two_records_shows_in_dataset_info(root):
    write_info(root, 2, 2, 2)
    assert len(MoviDataset(root)) == 6
    write_records(shards(root)[1], [record(2)])
    with pytest.raises(DataError, match="00001-of-00003: 1 records, dataset_info.json says 2"):
        MoviDataset(root)
    write_records(shards(root)[1], [])
    write_info(root, 2, 0, 2)
    assert len(MoviDataset(root)) == 4


def test_what_a_download_recorded_says_which_shards_there_should_be(root):
    (root / "checksums.json").write_text(json.dumps({path.name: "0a" * 16 for path in shards(root)[:2]}))
    shards(root)[2].unlink()
    assert len(MoviDataset(root)) == 4  # two shards were asked for, and are there
    shards(root)[0].unlink()
    with pytest.raises(DataError, match="00000-of-00003: the shard is missing"):
        MoviDataset(root)


@pytest.mark.parametrize("name", ["checksums.json", "dataset_info.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"splits": [3], "x": 3}', '{"splits": 3, "x": {}}'])
def test_unreadable_side_files(root, name, text):
    (root / name).write_text(text)
    with pytest.raises(DataError, match=name):
        MoviDataset(root)


@settings(max_examples=60)
@given(st.data())
def test_any_damage_to_a_record_is_a_data_error(data):
    whole = bytearray(record(data.draw(st.integers(0, 3))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_scene(bytes(whole)).video.shape == (T, H, W, 3)
    except DataError:
        pass


# ------------------------------------------------------------------------------------------- index and processes


def test_the_dataset_can_be_sent_to_another_process(root):
    data = pickle.loads(pickle.dumps(MoviDataset(root, frames=slice(1))))
    assert len(data) == 6 and data[3].video.shape[0] == 1


def test_workers_of_a_data_loader_see_every_scene_once(root):
    loader = DataLoader(MoviDataset(root), batch_size=4, num_workers=2, collate_fn=list, multiprocessing_context="fork")
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 2]
    assert [scene.name[-1] for batch in batches for scene in batch] == list("012345")


def test_the_fingerprint_is_of_the_content(root, tmp_path):
    first = MoviDataset(root).fingerprint
    assert len(first) == 12 and int(first, 16) >= 0
    moved = tmp_path / "moved"
    root.rename(moved)
    for path in shards(moved):
        os.utime(path)
    assert MoviDataset(moved).fingerprint == first
    assert MoviDataset(moved, frames=[0], fields=("video",)).fingerprint == first
    write_records(shards(moved)[2], [record(4), record(5, **{"metadata/video_name": [b"movi_a_0009"]})])
    assert MoviDataset(moved).fingerprint != first
    write_records(shards(moved)[2], [record(5), record(4)])
    assert MoviDataset(moved).fingerprint != first


def test_the_stand_in_says_how_to_restore_it(monkeypatch, root):
    monkeypatch.setattr("lib.data.shards.ROOT", root.parents[0])
    folder = root.parent / "data" / "movi_a"
    folder.parent.mkdir()
    root.rename(folder)
    shards(folder)[0].unlink()
    with pytest.raises(DataError, match="`git checkout -- data/movi_a`"):
        MoviDataset(folder)


STAND_IN = ROOT / "data" / "movi_a"


@pytest.mark.skipif(not list(STAND_IN.glob("*.tfrecord-*")), reason="the stand-in is not here")
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_stand_in_loads(split):
    data = MoviDataset(split=split)
    assert len(data) >= 40
    scene = data[-1]
    assert scene.video.shape == (24, 128, 128, 3)
    assert scene.masks.shape == (24, 128, 128)
    assert 3 <= len(scene.material) <= 10
    counts = [[(scene.masks[t] == n + 1).sum() for t in range(24)] for n in range(len(scene.material))]
    np.testing.assert_array_equal(scene.visibility, counts)


def test_the_records_of_these_tests_have_every_key_of_the_real_ones():
    assert len(features()) == 45
    assert set(FIELDS.values()) < features().keys()


# ------------------------------------------------------------------------------------------- what only looks like data


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("absent", path)])
def test_a_shard_that_is_no_file(root, in_time, make):
    shards(root)[1].unlink()
    make(shards(root)[0].with_name(f"{STEM}-00001-of-00003"))
    match = "the shard is missing" if shards(root)[1].is_symlink() else "it is a folder, a pipe or a device"
    with pytest.raises(DataError, match=match):
        MoviDataset(root)


@pytest.mark.parametrize("name", ["checksums.json", "dataset_info.json"])
@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"x": {"size": ' + b"9" * 5000 + b"}, ", b'{"x": {"size": 1e999, "md5": 0}, "splits": 1}', None],
    ids=["deep", "5,000 digits", "infinity", "a pipe"],
)
def test_side_files_that_attack(root, in_time, name, content):
    os.mkfifo(root / name) if content is None else (root / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        MoviDataset(root)


def test_an_infinite_number_of_records(root):
    (root / "dataset_info.json").write_text('{"splits": [{"name": "train", "shardLengths": [1e999]}]}')
    with pytest.raises(DataError, match="not a dataset_info.json"):
        MoviDataset(root)


HUGE = {"metadata/height": [9000], "metadata/width": [9000]}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (HUGE, "3 frames of 9000 x 9000 px are more than"),
        ({"metadata/num_frames": [2**40], "metadata/num_instances": [0]}, f"{2**40} frames of 10 x 8 px are more than"),
        ({"video": [b"EPS"] * T}, r"video: frame 0 is not readable \(it is no intact PNG"),
        ({"metadata/height": [b"x" * 10**6, b"y"]}, r"metadata/height: \[b'x{70,80} where"),
    ],
    ids=["frames", "many frames", "no image", "a long value"],
)
def test_records_that_announce_too_much_say_so_in_one_short_line(in_time, changes, match):
    with pytest.raises(DataError, match=match) as error:
        decode_scene(record(**changes))
    assert len(str(error.value)) < 200 and "BytesIO" not in str(error.value)
    few = {"metadata/num_instances": [0], **{f"instances/{name}_label": [] for name in ("material",)}}
    assert decode_scene(record(**few), fields=()).name
