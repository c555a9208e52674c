"""A vision transformer small enough to be pretrained here: timm's, patches of 8 px, made for 128 px.

Introduced in notebooks/backbone_comparison.ipynb; trained by lib/studies/backbones/pretraining.py.
"""

from pathlib import Path

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, where

from lib.models.weights import WeightsError, fit, label, read

SIDE, PATCH, HEAD_WIDTH = 128, 8, 32


def build(width: int = 96, depth: int = 6) -> VisionTransformer:
    """Untrained, from torch's generator; 0.71 million parameters as it stands. Takes any sides divisible by 8.

    Raises:
        ValueError: the width is no multiple of a head's 32 channels.
    """
    if width % HEAD_WIDTH:
        raise ValueError(f"width is {width}; choose a multiple of {HEAD_WIDTH}, the width of a head")
    return VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD_WIDTH,
        num_classes=0,
        dynamic_img_size=True,
    )


def restore(name: str, path: Path) -> tuple[VisionTransformer, str]:
    """The transformer whose weights `pretraining.train` of lib.studies.backbones left in `path`; and their label.

    Raises:
        WeightsError: no such file, or it holds something else.
    """
    if not path.exists():
        raise WeightsError(f"{path} does not exist; pretraining.train({name.removeprefix('vit8_')!r}) makes it")
    state = read(path)
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    width = state["norm.weight"].numel() if "norm.weight" in state else 0
    network = build(width, depth) if 0 < width <= 1024 and not width % HEAD_WIDTH and depth <= 48 else build()
    fit(network, state, name, path.name)
    return network, label(path)


def encode(
    vit: VisionTransformer, images: Tensor, masked: Tensor | None = None, mask_token: Tensor | None = None
) -> Tensor:
    """Tokens after the last LayerNorm, the class token first: `[B, 1 + N, C]`.

    Args:
        images: normalised, `[B, 3, H, W]`.
        masked: bool `[B, H / 8, W / 8]`; these patches are replaced by `mask_token` `[C]` before positions are added.
    """
    tokens = vit.patch_embed(images)  # [B, H / 8, W / 8, C]
    if masked is not None:
        tokens = where(masked[..., None], mask_token.to(tokens.dtype), tokens)
    return vit.norm(vit.blocks(vit.norm_pre(vit._pos_embed(tokens))))
