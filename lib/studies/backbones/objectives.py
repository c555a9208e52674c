"""Three ways to pretrain a transformer: DINO, iBOT and CLIP; what they compute of a batch, without any data.

DINO: Caron et al., arXiv:2104.14294. iBOT: Zhou et al., arXiv:2111.07832, here with the teacher's centre taken from
masked tokens, as in DINOv2 (Oquab et al., arXiv:2304.07193). CLIP: Radford et al., arXiv:2103.00020, its loss from
open_clip. The two losses of self-distillation are written out: the libraries that have them bring a trainer along.
Introduced in notebooks/backbone_comparison.ipynb.
"""

import copy
import itertools
import math
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from lib.models.small_vit import HEAD_WIDTH

#: Of the student's softmax; the teacher's is lower, see lib/studies/backbones/pretraining.py.
STUDENT_TEMPERATURE = 0.1
CENTRE_MOMENTUM = 0.9


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
        tokens = torch.where(masked[..., None], mask_token.to(tokens.dtype), tokens)
    return vit.norm(vit.blocks(vit.norm_pre(vit._pos_embed(tokens))))


class Head(nn.Module):
    """`[B, C]` to logits `[B, K]`: three layers, a bottleneck of unit length, K prototypes of unit length.

    The layers have DINO's optional batch normalisation. Frames of MOVi resemble each other: without it all targets
    became uniform at a teacher's temperature of 0.07, and one and the same prototype at 0.02.
    """

    def __init__(self, width: int, prototypes: int, hidden: int = 256, bottleneck: int = 64):
        super().__init__()
        sizes = (width, hidden, hidden, bottleneck)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        norms = [nn.BatchNorm1d(hidden, track_running_stats=False) for _ in range(2)]
        self.mlp = nn.Sequential(layers[0], norms[0], nn.GELU(), layers[1], norms[1], nn.GELU(), layers[2])
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, tokens: Tensor, frozen: bool = False) -> Tensor:
        """`frozen`: no gradient reaches the prototypes, as in DINO's first epoch."""
        prototypes = self.prototypes.detach() if frozen else self.prototypes
        with torch.autocast(tokens.device.type, enabled=False):
            return linear(normalize(self.mlp(tokens.float()), dim=-1), normalize(prototypes, dim=-1))


class Logits(NamedTuple):
    """Of a batch of B images: two large views and some small ones each, V in all; K prototypes, M masked patches."""

    student: Tensor  # [V, B, K]
    teacher: Tensor  # [2, B, K]
    student_patches: Tensor | None  # [M, K]
    teacher_patches: Tensor | None  # [M, K]
    classes: Tensor  # [2 B, C], the teacher's class tokens, to see a collapse


class Distillation(nn.Module):
    """DINO, and iBOT where `patches` is set: a student predicts what its own moving average says of other views.

    Args:
        vit: the student, trained in place; the teacher starts as its copy.
        patches: masked patches of the large views are predicted too, through the same head.
        prototypes: K, the classes that the teacher sorts views into.
    """

    def __init__(self, vit: VisionTransformer, patches: bool, prototypes: int):
        super().__init__()
        self.student = nn.ModuleDict({"vit": vit, "head": Head(vit.embed_dim, prototypes)})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.mask_token = nn.Parameter(torch.zeros(vit.embed_dim)) if patches else None
        self.register_buffer("class_centre", torch.zeros(prototypes))
        self.register_buffer("patch_centre", torch.zeros(prototypes))

    def forward(self, large: Tensor, small: Tensor, masked: Tensor | None = None, frozen: bool = False) -> Logits:
        """Logits of both networks; the teacher sees the large views, whole.

        Args:
            large: `[2 B, 3, H, W]`, all first views, then all second ones.
            small: `[V' B, 3, h, w]`.
            masked: bool `[2 B, H / 8, W / 8]`, hidden from the student, on the CPU; of iBOT only.
            frozen: see `Head`.
        """
        head, batch = self.student["head"], len(large) // 2
        there = None if masked is None else masked.to(large.device)
        seen = encode(self.student["vit"], large, there, self.mask_token)
        classes = torch.cat([seen[:, 0], encode(self.student["vit"], small)[:, 0]])
        with torch.no_grad():
            whole = encode(self.teacher["vit"], large)
            taught = self.teacher["head"](whole[:, 0])
        pair = (None, None)
        if masked is not None:
            hidden = [i.to(large.device) for i in masked.flatten(1).nonzero(as_tuple=True)]
            pair = head(seen[:, 1:][*hidden], frozen), self.teacher["head"](whole[:, 1:][*hidden])
        student = head(classes, frozen).unflatten(0, (-1, batch))
        return Logits(student, taught.unflatten(0, (2, batch)), *pair, whole[:, 0])

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The teacher moves towards the student: `momentum` of it stays."""
        for kept, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            kept.lerp_(new, 1 - momentum)

    @torch.no_grad()
    def targets(self, logits: Tensor, temperature: float, centre: str) -> Tensor:
        """The teacher's distributions `[..., K]`: centred, sharpened; then `centre` moves towards these logits."""
        running = getattr(self, centre)
        probabilities = ((logits - running) / temperature).softmax(-1)
        running.lerp_(logits.flatten(0, -2).mean(0), 1 - CENTRE_MOMENTUM)
        return probabilities


def class_loss(student: Tensor, targets: Tensor) -> Tensor:
    """DINO's: cross-entropy of every view `[V, B, K]` with both targets `[2, B, K]`, but no view with its own."""
    log = (student / STUDENT_TEMPERATURE).log_softmax(-1)
    pairs = -torch.einsum("gbk,vbk->gv", targets, log) / student.shape[1]
    others = [i.to(pairs.device) for i in (1 - torch.eye(*pairs.shape)).nonzero(as_tuple=True)]  # no device waits
    return pairs[*others].mean()


def patch_loss(student: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
    """iBOT's: cross-entropy of masked patches `[M, K]`; every image with a mask in `[B, h, w]` weighs the same."""
    log = (student / STUDENT_TEMPERATURE).log_softmax(-1)
    image = masked.flatten(1).nonzero()[:, 0]  # of each masked patch
    counts = image.bincount()
    return -((targets * log).sum(-1) / counts[image].to(log.device)).sum() / int((counts > 0).sum())


class Contrast(nn.Module):
    """CLIP: an image and its caption point the same way, other captions of the batch do not.

    Args:
        vit: the image tower, trained in place; its class token is projected.
        words: size of the vocabulary; word 0 fills up short captions.
        length: longest caption, in words.
        channels: of the common space.
    """

    def __init__(self, vit: VisionTransformer, words: int, length: int, channels: int = 64):
        super().__init__()
        width = vit.embed_dim
        self.vit = vit
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.order = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, width // HEAD_WIDTH, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.text = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.project_image = nn.Linear(width, channels, bias=False)
        self.project_text = nn.Linear(width, channels, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images `[B, 3, H, W]` and word ids `[B, L]` to vectors of unit length `[B, D]`, twice, and the scale."""
        image = self.project_image(encode(self.vit, images)[:, 0])
        filler = captions == 0
        words = self.text(self.words(captions) + self.order[: captions.shape[1]], src_key_padding_mask=filler)
        kept = (~filler)[..., None].float()
        text = self.project_text((words * kept).sum(1) / kept.sum(1))
        # The paper's bound: a scale above 100 makes training unstable.
        scale = self.scale.clamp(max=math.log(100)).exp()
        return normalize(image.float(), dim=-1), normalize(text.float(), dim=-1), scale
