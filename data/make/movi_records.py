"""Packs rendered MOVi-A stand-in scenes into TFRecords: the official keys, file names and dataset_info.json."""

import io
import json
import math
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from movi_geometry import (
    COLOURS,
    FOCAL,
    SENSOR,
    SIZE,
    Scene,
    camera_quaternion,
    project,
    visibility,
)
from movi_physics import FRICTION, RESTITUTION, mass
from movi_render import RGB
from PIL import Image
from tfrecords import encode_example, read_records, write_records

from lib.data.tfrecord import decode_example

PER_SHARD = 20  # scenes
QUALITY = 85  # JPEG without chroma subsampling; the highest that keeps the whole set under 16 MB


DESCRIPTION = (
    "A rendered stand-in in the format of MOVi-A (Greff et al., Kubric, CVPR 2022). Not MOVi-A: no number measured on "
    "it may be compared with one measured on MOVi-A."
)


def jpeg(frame: np.ndarray) -> bytes:
    """A frame uint8 `[h, w, 3]` as the records keep it."""
    return image(frame, format="JPEG", quality=QUALITY, subsampling=0, optimize=True)


def image(pixels: np.ndarray, **options) -> bytes:
    """An image file in memory."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def boxes(masks: np.ndarray, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each object its boxes (ymin, xmin, ymax, xmax) in 0..1, `[k, 4]`, in the k frames that show it, and those."""
    size = masks.shape[-1]
    corners, frames = [], []
    for i in range(count):
        shown = masks == i + 1
        rows, columns = shown.any(2), shown.any(1)
        seen = np.flatnonzero(rows.any(1))
        rows, columns = rows[seen], columns[seen]
        ends = [x.argmax(1) for x in (rows, columns)] + [size - x[:, ::-1].argmax(1) for x in (rows, columns)]
        corners.append(np.stack(ends, 1) / size)
        frames.append(seen)
    return corners, frames


def features(name: str, scene: Scene, frames: np.ndarray, masks: np.ndarray) -> dict:
    """The flat features of one record: bytes lists, and int64 or float32 arrays.

    Args:
        name: of the video.
        scene: n objects.
        frames: uint8 `[T, h, w, 3]`.
        masks: uint8 `[T, h, w]`.
    """
    corners, shown = boxes(masks, len(scene))
    lengths = np.array([len(x) for x in shown])
    still = {
        "camera/positions": np.tile(scene.camera, (len(frames), 1)),
        "camera/quaternions": np.tile(camera_quaternion(scene.camera), (len(frames), 1)),
        "camera/focal_length": [FOCAL],
        "camera/sensor_width": [SENSOR],
        "camera/field_of_view": [2 * np.arctan(SENSOR / 2 / FOCAL)],
        "instances/positions": scene.positions,
        "instances/quaternions": scene.quaternions,
        "instances/velocities": scene.velocities,
        "instances/angular_velocities": scene.angular_velocities,
        "instances/image_positions": project(scene.positions, scene.camera),
        "instances/bboxes/ragged_flat_values": np.concatenate(corners),
        "instances/mass": mass(scene),
        "instances/friction": FRICTION[scene.material],
        "instances/restitution": RESTITUTION[scene.material],
        "instances/color": np.array([RGB[COLOURS[c]] for c in scene.colour]) / 255,
    }
    counts = {
        "metadata/width": [SIZE],
        "metadata/height": [SIZE],
        "metadata/num_frames": [len(frames)],
        "metadata/num_instances": [len(scene)],
        "instances/visibility": visibility(masks, len(scene)),
        "instances/bboxes/ragged_row_lengths_0": lengths,
        "instances/bbox_frames/ragged_flat_values": np.concatenate(shown),
        "instances/bbox_frames/ragged_row_lengths_0": lengths,
        "instances/shape_label": scene.shape,
        "instances/size_label": scene.size,
        "instances/color_label": scene.colour,
        "instances/material_label": scene.material,
    }
    return {
        "metadata/video_name": [name.encode()],
        "video": [jpeg(x) for x in frames],
        "segmentations": [image(x, format="PNG", optimize=True) for x in masks],
        **{key: np.asarray(value, np.float32).ravel() for key, value in still.items()},
        **{key: np.asarray(value, np.int64).ravel() for key, value in counts.items()},
    }


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels of two uint8 images."""
    return float(10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-12)))


def shard_name(split: str, shard: int, shards: int) -> str:
    """The file name that TensorFlow Datasets gives a shard."""
    return f"movi_a-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


def read(folder: Path, split: str, wanted: list[str] | None = None) -> Iterator[dict]:
    """The decoded features of every record of a split, in order. Raises FileNotFoundError where there is none."""
    paths = sorted(Path(folder).glob(f"movi_a-{split}.tfrecord-*"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no shard of {split}; data/make/movi.py renders and packs them")
    for path in paths:
        for record in read_records(path):
            yield decode_example(record, wanted)


def pack(scratch: Path, folder: Path, splits: dict[str, tuple[int, int]]) -> None:
    """Writes shards, dataset_info.json and making.json from the scenes that `render` left in `scratch`.

    Args:
        scratch: one .npz a scene.
        folder: where the dataset goes; shards already there are replaced.
        splits: scenes and first seed of each split.

    Raises:
        FileNotFoundError: a scene has not been rendered yet.
    """
    wanted = [scratch / f"{split}-{number:04d}.npz" for split, (count, _) in splits.items() for number in range(count)]
    if missing := [path.name for path in wanted if not path.exists()]:
        raise FileNotFoundError(
            f"{scratch} lacks {len(missing)} of {len(wanted)} scenes, {missing[0]} first: `render` them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    info, quality, drafts = [], [], {}
    for split, (count, seed) in splits.items():
        drafts[split] = 0

        def records(numbers, split=split, seed=seed):
            for number in numbers:
                with np.load(scratch / f"{split}-{number:04d}.npz") as made:
                    scene = Scene(**{field: made[field] for field in Scene.__dataclass_fields__})
                    frames, masks = made["frames"], made["masks"]
                    drafts[split] += int(made["drafts"])
                kept = features(f"{split}-{seed + number}", scene, frames, masks)
                quality.extend(
                    psnr(x, np.asarray(Image.open(io.BytesIO(y)))) for x, y in zip(frames, kept["video"], strict=True)
                )
                yield encode_example(kept)

        shards = math.ceil(count / PER_SHARD)
        lengths = []
        for shard in range(shards):
            numbers = range(shard * PER_SHARD, min(count, (shard + 1) * PER_SHARD))
            lengths.append(write_records(folder / shard_name(split, shard, shards), records(numbers)))
        size = sum((folder / shard_name(split, shard, shards)).stat().st_size for shard in range(shards))
        info.append({
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "shardLengths": [str(n) for n in lengths],
            "numBytes": str(size),
        })  # fmt: skip
    write_json(folder / "dataset_info.json", {
        "name": "movi_a", "configName": "128x128", "version": "1.0.0", "fileFormat": "tfrecord",
        "description": DESCRIPTION, "splits": info,
    })  # fmt: skip
    write_json(folder / "making.json", {
        "first_seed": {split: seed for split, (_, seed) in splits.items()},
        "drafts_rejected": drafts,
        "jpeg": {
            "quality": QUALITY, "psnr_mean": round(float(np.mean(quality)), 2), "psnr_min": round(min(quality), 2),
        },
        "versions": {name: version(name) for name in ("mujoco", "mitsuba", "mitsuba-oidn", "numpy", "pillow")},
    })  # fmt: skip


def write_json(path: Path, content: dict) -> None:
    """Writes readable JSON; the file appears whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, path)
