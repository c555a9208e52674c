"""Files of weights as publishers hand them out: found, read without running what is in them, fitted, named.

Introduced in notebooks/ex_dino1.ipynb, through lib/models/backbones.py.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class WeightsError(RuntimeError):
    """Weights cannot be had or do not fit; the message says what was looked for and what to do."""


def find(name: str, published: tuple[str, ...], place: str | Path | None) -> Path | None:
    """The file of weights in `place`; None where no place is given, or a folder of it holds none for this backbone."""
    if place is None:
        return None
    place = Path(place)
    wanted = [f"{name}.safetensors", f"{name}.pth", *published]
    if place.is_dir():
        return next((place / w for w in wanted if (place / w).exists()), None)
    if not place.exists():
        raise WeightsError(f"{place} does not exist; weights of {name} may be called {', '.join(wanted)}")
    return place


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises WeightsError: no safetensors file and no pickle of bare weights."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
        return state.get("state_dict", state.get("model", state))
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read as bare weights ({str(error).splitlines()[0]}). A TorchScript archive, such as "
            f"OpenAI's ViT-B-16.pt, is a program and is not run here: take open_clip_pytorch_model.bin or a "
            f"safetensors file of the same model"
        ) from error


def fit(network: nn.Module, state: dict[str, Tensor], name: str, source: str) -> None:
    """Load `state` in place. Raises WeightsError: a tensor is missing, left over or of another shape."""
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{source} holds no weights of {name}: {' '.join(str(error).split())[:300]}") from error


def label(path: Path) -> str:
    """The file's name and twelve digits of a hash of it."""
    with open(path, "rb") as file:
        return f"{path.name} sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
