"""A vision transformer small enough to be pretrained here: timm's, patches of 8 px, made for 128 px.

Introduced in notebooks/backbone_comparison.ipynb; trained by lib/studies/backbones/pretraining.py.
"""

from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from lib.models.weights import WeightsError, fit, label, read

PATCH, HEAD_WIDTH = 8, 32


def build() -> VisionTransformer:
    """Untrained, from torch's generator; 0.71 million parameters. Takes any sides divisible by 8."""
    sizes = {"img_size": 128, "patch_size": PATCH, "embed_dim": 96, "depth": 6, "num_heads": 96 // HEAD_WIDTH}
    return VisionTransformer(**sizes, num_classes=0, dynamic_img_size=True)


def restore(name: str, path: Path) -> tuple[VisionTransformer, str]:
    """The transformer whose weights `pretraining.train` of lib.studies.backbones left in `path`; and their label.

    Raises:
        WeightsError: no such file, or it holds something else.
    """
    if not path.exists():
        raise WeightsError(f"{path} does not exist; pretraining.train({name.removeprefix('vit8_')!r}) makes it")
    network = build()
    fit(network, read(path), name, path.name)
    return network, label(path)
