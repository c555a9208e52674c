"""Weights as publishers hand them out: found or fetched, read without running what is in them, fitted, named.

Introduced in notebooks/ex_dino1.ipynb, through lib/models/backbones.py.
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import requests
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from torch import Tensor, nn

#: What weights lie in, as a dictionary or as a first part of their names. Of DINO's student and teacher, the teacher
#: is the published network; what lies beside a backbone, its heads, is left out.
WRAPPERS = ("state_dict", "model", "teacher", "module", "_orig_mod", "backbone")
#: Parts of names, and what has them.
MARKS = {"embeddings.": "layout of transformers", "reg": "registers", ".ls1.": "LayerScale", "layer3.": "a ResNet"}
PATIENCE = 5  # seconds


class WeightsError(RuntimeError):
    """Weights cannot be had or do not fit; the message says what was looked for and what to do."""


def find(name: str, published: tuple[str, ...] = (), place: str | Path | None = None) -> Path | None:
    """The file of weights: `place`, or of a folder the one called `name` or as published; `SLOTS_WEIGHTS` if None.

    None where neither is set, or the folder holds none of this network. WeightsError where there is no such place.
    """
    place = place or os.environ.get("SLOTS_WEIGHTS")
    if not place:
        return None
    place, wanted = Path(place), _names(name, published)
    if place.is_dir():
        return next((place / w for w in wanted if (place / w).exists()), None)
    if not place.exists():
        raise WeightsError(f"{place} does not exist; weights of {name} may be called {', '.join(wanted)}")
    return place


def from_hub(name: str, published: tuple[str, ...], build: Callable[[], nn.Module], otherwise: str) -> nn.Module:
    """`build()`, which has the hub's client load weights: out of its cache, else over the network.

    Proxies and mirrors are those of the environment. A hub that does not answer in `PATIENCE` is not asked again.

    Raises:
        WeightsError: neither has them; the message says where to put them, or to do `otherwise`.
    """
    offline = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = True
        try:
            return build()
        except Exception:
            if offline:
                raise
        constants.HF_HUB_OFFLINE = False
        requests.head(constants.ENDPOINT, timeout=PATIENCE)  # the client itself would try for minutes
        return build()
    except Exception as error:  # of requests, of the client, of timm and of a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(
            f"no weights of {name} in the hub's cache or from the hub ({reason}); save them as one of "
            f"{', '.join(_names(name, published))} and set SLOTS_WEIGHTS to their folder, or {otherwise}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _names(name: str, published: tuple[str, ...]) -> list[str]:
    return [f"{name}.safetensors", f"{name}.pth", *published]


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, out of what publishers and training wrap around them: see `WRAPPERS`.

    Raises:
        WeightsError: no safetensors file and no pickle of bare weights.
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            raise ValueError("it is empty or no file")
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, weights_only=True, map_location="cpu")
        for wrapper in 2 * WRAPPERS:  # wrappers of wrappers, in any order
            state = state[wrapper] if isinstance(state.get(wrapper), dict) else state
            inside = {k[len(wrapper) + 1 :]: v for k, v in state.items() if str(k).startswith(f"{wrapper}.")}
            state = inside or state
        return {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor) and _plain(v)}
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{path} cannot be read as bare weights ({reason}). A TorchScript archive, such as "
            f"OpenAI's ViT-B-16.pt, is a program and is not run here: take open_clip_pytorch_model.bin or a "
            f"safetensors file of the same model"
        ) from error


def fit(network: nn.Module, state: dict[str, Tensor], name: str, source: str, unused: tuple[str, ...] = ()) -> None:
    """Load `state` in single precision: names, shapes and kinds of number must be those of `network`, or of its
    skeleton on torch's meta device, which spares the initial values.

    Names that begin with one of `unused` are left out, and counts of batches may be missing, as in old files. No shape
    tells heads, activations or the data trained on: of networks that differ in these alone, `label` tells which it is.

    Raises:
        WeightsError: a tensor is missing, left over, of another shape or kind, or not finite.
    """
    state = {k: v for k, v in state.items() if not k.startswith(unused)}
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    other = [f"{k} {_form(state[k])} for {_form(v)}" for k, v in wanted.items() if _form(state.get(k, v)) != _form(v)]
    faults = {
        "missing": missing,
        "left over": [k for k in state if k not in wanted],
        "of another shape": other,
        "not finite": [k for k, v in state.items() if not v.float().isfinite().all()],
    }
    if any(faults.values()):
        said = "; ".join(f"{len(v)} {k} ({', '.join(v[:2])})" for k, v in faults.items() if v)
        raise WeightsError(
            f"{source} holds no weights of {name}: found {_looks(state)}, expected {_looks(wanted)}: {said}"
        )
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    nn.Module.load_state_dict(network, state, assign=True)  # some networks have one of their own, without `assign`


def _plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized and not value.is_meta


def _form(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f" {value.dtype}".replace("torch.", "")
    return " x ".join(map(str, value.shape)) + kind


def _looks(state: dict[str, Tensor]) -> str:
    kernel = next((f", first kernel {_form(v)}" for v in state.values() if v.ndim == 4), "")
    blocks = len({m[0] for k in state if (m := re.match(r".*?(blocks|layers?\d*)\.\d+", k))})
    marks = "".join(f", {what}" for mark, what in MARKS.items() if any(mark in k for k in state))
    return f"{len(state)} tensors, {blocks} blocks{kernel}{marks}"


def label(path: Path) -> str:
    """The file's name and twelve digits of a hash of it."""
    with open(path, "rb") as file:
        return f"{path.name} sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
