"""What `paper` looks for, in each publisher's own format and layout, made here: weights are random, scenes a few.

    python tests/rehearsal/real.py DIR

Weights go to DIR/weights (`SLOTS_WEIGHTS`), MOVi-A at 128 and at 256 px to DIR/movi_a, without a test split, and
StreetHazards to DIR/streethazards. Frames are those of the committed stand-ins, stored as the real sets store them.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from lib import ROOT
from lib.data.movi import MoviDataset
from lib.data.streethazards import SPLITS, StreetHazards
from lib.data.tfrecord import decode_example, read_record
from lib.models.segmenters import NETWORKS

sys.path[:0] = [str(ROOT / "data" / "make")]
from tfrecords import encode_example, write_records  # noqa: E402

SCENES = {"train": 4, "validation": 3}  # two shards each
FRAMES = {"train": 4, "validation": 2, "test": 3}  # of StreetHazards, half of them in each town


def png(pixels: np.ndarray) -> bytes:
    """A lossless image file in memory, as both real sets have them."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def larger(data: bytes, factor: int, how: Image.Resampling) -> np.ndarray:
    """The pixels of an image file, `factor` times as many each way."""
    image = Image.open(io.BytesIO(data))
    return np.asarray(image.resize((image.width * factor, image.height * factor), how))


def scene(record: bytes, factor: int) -> bytes:
    """A record of the stand-in as MOVi-A has it: frames as PNG, and the images that no notebook reads."""
    values = decode_example(record)
    values["video"] = [png(larger(f, factor, Image.Resampling.BICUBIC)) for f in values["video"]]
    values["segmentations"] = [png(larger(m, factor, Image.Resampling.NEAREST)) for m in values["segmentations"]]
    frames, (height,), (width,) = len(values["video"]), *(values[f"metadata/{k}"] * factor for k in ("height", "width"))
    values |= {"metadata/height": [height], "metadata/width": [width]}
    values["instances/visibility"] = values["instances/visibility"] * factor**2
    deep = png(np.zeros((height, width), np.uint16))
    values |= {"depth": [deep] * frames, "metadata/depth_range": np.array([0, 1], np.float32)}
    for key in ("forward_flow", "backward_flow"):
        values |= {
            key: np.zeros((frames, height, width, 2), np.int64),
            f"metadata/{key}_range": np.zeros(2, np.float32),
        }
    return encode_example(values)


def movi(folder: Path) -> Path:
    """`<folder>/movi_a/<r>x<r>/1.0.0` with shards and dataset_info.json, at 128 and at 256 px."""
    for factor in (1, 2):
        place = folder / "movi_a" / f"{128 * factor}x{128 * factor}" / "1.0.0"
        splits = []
        for split, count in SCENES.items():
            source = MoviDataset(split=split)
            found = [(source.shards[s], span) for s, _, *span in source._places[:count]]
            records = [scene(read_record(path, *span), factor) for path, span in found]
            shards = [records[::2], records[1::2]]
            for i, shard in enumerate(shards):
                write_records(place / f"movi_a-{split}.tfrecord-{i:05d}-of-00002", shard)
            splits.append({"name": split, "shardLengths": [str(len(s)) for s in shards]})
        info = {"name": "movi_a", "configName": place.parent.name, "version": "1.0.0", "splits": splits}
        (place / "dataset_info.json").write_text(json.dumps(info))
    return folder / "movi_a"


def streethazards(folder: Path) -> Path:
    """`<folder>/streethazards/{train,test}` with images and labels of 1280 x 720 px as PNG, and the indexes."""
    root, size = folder / "streethazards", (1280, 720)
    for split, count in FRAMES.items():
        source, rows = StreetHazards(split=split), []
        for image, label in [source.pairs[i] for i in np.linspace(0, len(source) - 1, count).astype(int)]:
            row = {"dbName": "StreetHazards", "width": size[0], "height": size[1]}
            for key, path, how in (("fpath_img", image, "BICUBIC"), ("fpath_segm", label, "NEAREST")):
                below = path.relative_to(source.root / SPLITS[split][0]).with_suffix(".png")
                target = root / SPLITS[split][0] / below
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.open(path).resize(size, getattr(Image.Resampling, how)).save(target, compress_level=1)
                row[key] = below.as_posix()
            rows.append(row)
        (root / SPLITS[split][0] / f"{split}.odgt").write_text(json.dumps(rows))
    return root


def weights(folder: Path) -> Path:
    """A file of random weights a network, called and laid out as its publisher does."""
    place = folder / "weights"
    place.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    state = timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict()
    torch.save({"mask_token": torch.zeros(1, 384)} | state, place / "dinov2_vits14_pretrain.pth")
    dino = timm.create_model("vit_small_patch16_224.dino", num_classes=0)
    torch.save(dino.state_dict(), place / "dino_deitsmall16_pretrain.pth")
    torch.save(open_clip.create_model("ViT-B-16-quickgelu").half().state_dict(), place / "open_clip_pytorch_model.bin")
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16-quickgelu")}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    for name, digits in (("resnet18", "f37072fd"), ("resnet50", "0676ba61"), ("resnet101", "63fe2227")):
        torch.save(getattr(torchvision.models, name)().state_dict(), place / f"{name}-{digits}.pth")
    encoder, network, _ = NETWORKS["segformer_b2"]
    mit = network(encoder, encoder_weights=None).encoder.state_dict()
    torch.save(mit | {"head.weight": torch.zeros(1000, 512), "head.bias": torch.zeros(1000)}, place / "mit_b2.pth")
    save_file(timm.create_model("hiera_base_224").state_dict(), place / "hiera_base_224.safetensors")
    return place


if __name__ == "__main__":
    for make in (movi, streethazards, weights):
        print(make(Path(sys.argv[1])))
