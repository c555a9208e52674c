"""The pixel series' one experiment: train the autoencoder on given pictures, under given rules, watching given others.

Shared by ex_slot1 to ex_slot5, so that a checkpoint trained in one is the checkpoint loaded in another.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from lib.data.shapes import Shapes
from lib.metrics import objects
from lib.models.pixel_autoencoder import Autoencoder, linear_temperature
from lib.training import Fitted, Recipe, Run, State, fit, indices, load_or_train

#: The measures that are watched during training and reported after it.
WATCHED = ("fg_ari", "ari", "mbo", "mask_entropy", "mask_similarity", "active_slots")


@dataclass(frozen=True)
class Rules:
    """What distinguishes one configuration of the pixel series from another.

    Args:
        temperature: of the masks, at the first and at the last step; linear in between.
        attention_temperature: of Slot Attention's softmax over slots; below 1, slots part sooner.
        glorot: initialise as the published code does; False is torch's default.
        jitter: strength of colour jitter, 0 none, 1 brightness, contrast and saturation 0.8 and hue 0.5.
        slots: K.
        stride: of the encoder, see `Autoencoder`.
    """

    temperature: tuple[float, float] = (1.0, 1.0)
    attention_temperature: float = 0.25
    glorot: bool = True
    jitter: float = 0.0
    slots: int = 5
    stride: int = 1


def jitter(strength: float) -> v2.Transform:
    """Colour jitter of the original study at strength 1 (ex_slot4); draws from torch's generator."""
    s = 0.8 * strength
    return v2.ColorJitter(s, s, s, 0.5 * strength)


def network(rules: Rules, size: int) -> Autoencoder:
    """The autoencoder of a configuration before its first step, for pictures of `size` px."""
    temperature = rules.attention_temperature
    model = Autoencoder(size, rules.slots, stride=rules.stride, attention_temperature=temperature, glorot=rules.glorot)
    return model.to(memory_format=torch.channels_last)  # the layout that CPU convolutions are fastest in


def train(
    name: str,
    pictures: Tensor | Shapes,
    rules: Rules,
    recipe: Recipe,
    data: str,
    *,
    held_out: tuple[Tensor, Tensor | None],
    film: int = 2,
    watch_every: int = 150,
    device: str = "auto",
) -> Run:
    """Load or train one autoencoder (see `load_or_train`).

    Args:
        name: of the checkpoint.
        pictures: training set, `[n, 3, H, W]` in 0..1, or a set of shapes, drawn only if there is training to do.
        rules, recipe: the configuration.
        data: fingerprint of the training pictures and of the held-out ones.
        held_out: pictures `[m, 3, H, W]` and their ids `[m, H, W]`, or None where nobody knows them. Watched only.
        film: so many held-out pictures' masks are kept at every watch, `extra["film"] [times, film, K, H, W]` uint8.
    """
    size = pictures.size if isinstance(pictures, Shapes) else pictures.shape[-1]
    config = {"rules": asdict(rules), "size": size, "n": len(pictures)}
    config |= {"held_out": len(held_out[0]), "film": film, "watch_every": watch_every}

    def fit_it(model: nn.Module, state: State) -> Fitted:
        change = jitter(rules.jitter)
        known = pictures.tensors[0] if isinstance(pictures, Shapes) else pictures

        def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
            batch = known[indices(recipe, step, len(known))].to(next(net.parameters()).device)
            if rules.jitter:
                batch = torch.stack([change(p) for p in batch])  # each picture its own draw
            out = net(batch, linear_temperature(step, recipe.steps, *rules.temperature))
            certainty = float(out.masks.detach().amax(1).mean())  # 1/K is uniform, 1 is certain
            return (out.reconstruction - batch).pow(2).mean(), {"mask_certainty": certainty}

        def watch(net: nn.Module, step: int) -> dict[str, float | Tensor]:
            temperature = linear_temperature(step - 1, recipe.steps, *rules.temperature)
            seen = measure(net, *held_out, temperature)
            seen["film"] = (seen.pop("masks")[:film] * 255).round().byte()
            return seen

        return fit(model, loss, recipe, state=state, device=device, watch=watch, watch_every=watch_every, label=name)

    return load_or_train(name, lambda: network(rules, size), fit_it, recipe, config, data)


@torch.no_grad()
def measure(
    model: nn.Module, pictures: Tensor, truth: Tensor | None, temperature: float, seed: int = 0
) -> dict[str, Any]:
    """Means over pictures of the measures in `WATCHED`, the reconstruction error `mse`, and the `masks`.

    `fg_ari_attention` is FG-ARI of Slot Attention's own masks in place of the decoder's.

    The slots' starting noise is drawn from `seed`, so the same call gives the same numbers.
    """
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    outs = [model(p.to(device), temperature) for p in pictures.split(32)]
    masks = torch.cat([o.masks for o in outs]).float().cpu()
    reconstruction = torch.cat([o.reconstruction for o in outs]).float().cpu()
    ids = torch.zeros_like(masks[:, 0], dtype=torch.long) if truth is None else truth
    values = objects.evaluate(ids, masks)
    unknown = () if truth is not None else ("fg_ari", "ari", "mbo")
    row: dict[str, Any] = {k: float(np.nanmean(values[k])) for k in WATCHED if k not in unknown}
    if truth is not None:
        attention = torch.cat([o.attention for o in outs])
        row["fg_ari_attention"] = float(np.nanmean(objects.evaluate(truth, attention)["fg_ari"]))
    return row | {"mse": float((reconstruction - pictures).pow(2).mean()), "masks": masks}
