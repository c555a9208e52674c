"""tensorflow-datasets as a process of its own, whose packages are not those of the workbook.

    python tests/benchmarks/tfds_peer.py SHARD

Says its versions, then for every line such as "labels 6 read" or "all 1 digest" on stdin reads so many scenes of the
shard, and answers with their number, or a digest of the last.
"""

import hashlib
import sys
from functools import cache

import tensorflow as tf
import tensorflow_datasets as tfds

NAMES = ("material_label", "shape_label", "size_label", "color_label")


def spec(what):
    """The fields that are wanted, as kubric's description of MOVi-A has them; all others are not decoded."""
    count = tfds.features.Tensor(shape=(24,), dtype=tf.int64)
    found = {"instances": tfds.features.Sequence(dict.fromkeys(NAMES, tf.int64) | {"visibility": count})}
    if what == "all":
        mask = tfds.features.Image(shape=(128, 128, 1))
        found |= {"video": tfds.features.Video((24, 128, 128, 3)), "segmentations": tfds.features.Sequence(mask, 24)}
    return tfds.features.FeaturesDict(found)


@cache
def records(path, what):
    return tf.data.TFRecordDataset(path).map(spec(what).deserialize_example, num_parallel_calls=tf.data.AUTOTUNE)


def digest(scene):
    """Of labels, visibility, and where there are some frames and masks."""
    instances = scene["instances"]
    arrays = [instances[name].astype("int64") for name in (*NAMES, "visibility")]
    arrays += [scene[name] for name in ("video", "segmentations") if name in scene]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


if __name__ == "__main__":
    print(tfds.__version__, tf.__version__, flush=True)
    for line in sys.stdin:
        what, count, wish = line.split()
        found = list(tfds.as_numpy(records(sys.argv[1], what).take(int(count))))
        print(digest(found[-1]) if wish == "digest" else len(found), flush=True)
