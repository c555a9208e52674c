"""MOVi-A: videos of 3 to 10 rigid objects falling onto a plane, with masks and the material of every object.

Reads the TFRecords that TensorFlow Datasets wrote (Greff et al., Kubric, CVPR 2022; schema in kubric's
challenges/movi/movi_a.py) without TensorFlow, and the stand-in under data/movi_a, which has the same format.
Introduced in notebooks/ex_dino1.ipynb; materials in notebooks/backbone_comparison.ipynb.
"""

import copy
import hashlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from lib import ROOT
from lib.data.photos import MOST_PIXELS, open_image, open_label
from lib.data.shards import find_shards, index_shards, remedy
from lib.data.tfrecord import decode_example, read_record
from lib.files import DataError

MATERIALS = ("metal", "rubber")
SHAPES = ("cube", "cylinder", "sphere")
SIZES = ("small", "large")
COLORS = ("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow")

#: The name of a field and its key in the record. What is not asked for is not decoded.
FIELDS = {
    "video": "video",
    "segmentations": "segmentations",
    "material": "instances/material_label",
    "shape": "instances/shape_label",
    "size": "instances/size_label",
    "color": "instances/color_label",
    "visibility": "instances/visibility",
}
_CLASSES = {"material": MATERIALS, "shape": SHAPES, "size": SIZES, "color": COLORS}
_BULK = ("depth", "normal", "object_coordinates", "forward_flow", "backward_flow")
_METADATA = tuple(f"metadata/{name}" for name in ("video_name", "num_frames", "num_instances", "height", "width"))


@dataclass(frozen=True, eq=False)
class Scene:
    """One video of T frames and n objects; what was not asked for is None.

    Object i (row i of every attribute) has id i + 1 in the masks, whether a frame shows it or not; 0 is background.
    """

    name: str
    video: np.ndarray | None = None  # uint8 [T, H, W, 3]
    masks: np.ndarray | None = None  # uint8 [T, H, W]
    material: np.ndarray | None = None  # int64 [n], index into MATERIALS, and so on
    shape: np.ndarray | None = None
    size: np.ndarray | None = None
    color: np.ndarray | None = None
    visibility: np.ndarray | None = None  # int64 [n, T], pixels that show object i in frame t
    extra: dict[str, list[bytes] | np.ndarray] = field(default_factory=dict)  # other keys, flat as the record has them


class MoviDataset(Dataset):
    """One split of MOVi-A; item i is a `Scene`, the items of a slice are a list.

    Scenes are ragged, so a DataLoader needs `collate_fn=list` or a function that stacks what you use. No file stays
    open: the dataset can be pickled and sent to worker processes.

    Args:
        root: a folder of shards, or one that holds `[movi_a/]128x128/1.0.0/`.
        split: train, validation or (stand-in only) test.
        fields: names in `FIELDS`, or further keys of the record, which go to `Scene.extra` as they are.
        frames: None for all, else a slice or frame numbers; other frames are not decoded.

    Attributes:
        name: "movi_a", with "stand-in" where the record of its making lies beside the shards.
        fingerprint: 12 hexadecimal digits of a hash of lengths and checksums of the records, for caches and results.

    Raises:
        DataError: no such split or shard, or damage; on reading an item, damage in that record.
        ValueError: an unknown field or option; frames that a scene does not have.
    """

    def __init__(
        self,
        root: Path | str = ROOT / "data" / "movi_a",
        split: str = "train",
        fields: Iterable[str] = tuple(FIELDS),
        frames: slice | Iterable[int] | None = None,
    ):
        self.fields = (fields,) if isinstance(fields, str) else tuple(fields)
        if unknown := [name for name in self.fields if name not in (*FIELDS, *_BULK) and "/" not in name]:
            raise ValueError(f"unknown fields {unknown}; choose from {list(FIELDS)} or name a key of the record")
        self.frames = frames if frames is None or isinstance(frames, slice) else tuple(map(operator.index, frames))
        self.split = split
        self.shards = find_shards(Path(root).absolute(), split)
        self.name = "movi_a stand-in" if (self.shards[0].parent / "making.json").exists() else "movi_a"
        records, faults = index_shards(self.shards)
        self._places = [(s, k, *place) for s, shard in enumerate(records) for k, place in enumerate(shard)]
        if faults:
            raise DataError(f"{faults[0]} (fault 1 of {len(faults)}); {remedy(self.shards)}")
        if not self._places:
            raise DataError(f"{self.shards[0].parent}: split {split!r} has no readable record; {remedy(self.shards)}")
        self._stamp()

    def _stamp(self) -> None:
        self.fingerprint = hashlib.sha256(repr([place[3:] for place in self._places]).encode()).hexdigest()[:12]

    def only(self, scenes: slice) -> "MoviDataset":
        """The same with some of the scenes, and a fingerprint of its own."""
        part = copy.copy(self)
        part._places = self._places[scenes]
        part._stamp()
        return part

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int | slice) -> Scene | list[Scene]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"scene {position} of {len(self)} in split {self.split!r}")
        shard, number, *span = self._places[position]
        path = self.shards[shard]
        try:
            return decode_scene(read_record(path, *span), self.fields, self.frames)
        except (DataError, OSError) as error:
            raise DataError(f"{path.name}: record {number} is damaged ({error}); {remedy(self.shards)}") from error


def decode_scene(
    record: bytes,
    fields: Iterable[str] = tuple(FIELDS),
    frames: slice | Iterable[int] | None = None,
) -> Scene:
    """One record as a `Scene`; the arguments are those of `MoviDataset`. Raises DataError, saying what is wrong."""
    keys = {name: FIELDS.get(name, name) for name in fields}
    features = decode_example(record, {*keys.values(), *_METADATA})
    if absent := sorted({*keys.values(), *_METADATA} - features.keys()):
        raise DataError(f"no key {', '.join(absent)} in the record")
    name, total, count, height, width = (_single(features, key) for key in _METADATA)
    chosen = _chosen(frames, total)
    if len(chosen) * height * width > MOST_PIXELS:
        raise DataError(f"{len(chosen)} frames of {height} x {width} px are more than {MOST_PIXELS} pixels in all")
    values: dict = {"name": name.decode(errors="replace"), "extra": {}}
    for field_name, key in keys.items():
        value = features[key]
        if field_name in ("video", "segmentations"):
            if not isinstance(value, list) or len(value) != total:
                raise DataError(f"{key}: {len(value)} values where {total} images are due")
            is_video = field_name == "video"
            opened, due = (open_image if is_video else open_label), ("RGB" if is_video else "L", height, width)
            images = [np.asarray(opened(value[t], f"{key}: frame {t}", due)) for t in chosen]
            values["video" if is_video else "masks"] = np.stack(images)
        elif field_name in FIELDS:
            due = count * total if field_name == "visibility" else count
            if isinstance(value, list) or value.dtype != np.int64 or len(value) != due:
                raise DataError(f"{key}: {len(value)} values where {due} integers are due")
            known = len(_CLASSES.get(field_name, ())) or height * width + 1
            if due and not 0 <= value.min() <= value.max() < known:
                raise DataError(f"{key}: values from {value.min()} to {value.max()}, known are 0 to {known - 1}")
            values[field_name] = value.reshape(count, total)[:, chosen] if field_name == "visibility" else value
        else:
            values["extra"][key] = value
    if "masks" in values and values["masks"].max() > count:
        raise DataError(f"segmentations: id {values['masks'].max()} in a scene of {count} objects")
    return Scene(**values)


def _single(features: dict, key: str) -> bytes | int:
    value, is_name = features[key], key == "metadata/video_name"
    least = 0 if key == "metadata/num_instances" else 1
    if len(value) != 1 or isinstance(value, list) != is_name or not (is_name or value[0] >= least):
        due = "name" if is_name else f"number from {least}"
        raise DataError(f"{key}: {str(value[:2])[:80]} where one {due} is due")
    return value[0] if is_name else int(value[0])


def _chosen(frames: slice | Iterable[int] | None, total: int) -> range | list[int]:
    """Frame numbers within `total`; negative ones count from the end."""
    if frames is None or isinstance(frames, slice):
        chosen = range(total)[frames or slice(None)]
        wrong = not chosen
    else:
        chosen = [t + total if t < 0 else t for t in frames]
        wrong = not chosen or min(chosen) < 0 or max(chosen) >= total
    if wrong:  # not DataError: the question is at fault, not the file
        raise ValueError(f"a scene has {total} frames, asked for {frames}")
    return chosen
