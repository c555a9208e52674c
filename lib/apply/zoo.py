"""The committed models: their names, their table, and `lib.load`, which rebuilds one from its checkpoint's header.

A header holds the whole configuration, so a checkpoint that was trained otherwise loads without a change here.
Introduced in notebooks/ex_dino4.ipynb.
"""

import difflib
import re
import warnings
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import ROOT, checkpoints, provenance
from lib.checkpoints import CheckpointError, OneLine
from lib.data import clips
from lib.files import DataError
from lib.models import small_vit
from lib.models.dinosaur import Dinosaur
from lib.models.pixel_autoencoder import Autoencoder
from lib.models.slot_attention import SlotAttention
from lib.models.video import VideoModel
from lib.training import Run, place

#: Short names: the models that the two studies end with.
SHORT = {"ex_dino4": "ex_dino4-ours-0", "streethazards": "streethazards-main-0"}
#: The model that follows slots through a video, by that of its images.
FOLLOWS = {"ex_dino4-ours-0": "ex_dino4-video-0"}


class Wrong(OneLine, DataError):
    """What was asked for or handed in cannot be used; the message says why, and what can, in one line."""


def files(*more: str | Path) -> dict[str, Path]:
    """The committed checkpoints by name, which is that of the file without the hash of its configuration.

    And those of `more` paths, by path: `load` takes both.
    """
    paths = sorted((ROOT / "checkpoints").glob("*.safetensors"))
    return {_name(path): path for path in paths} | {str(path): Path(path) for path in more}


def load(name: str | Path = "ex_dino4", device: str = "auto") -> Run:
    """A trained model in eval mode, with its header (name, configuration, seed, data, history, metrics).

    Args:
        name: of `files`, such as "ex_dino4-ours-0", one of `SHORT`, or the path of a checkpoint of this workbook.
        device: see `training.place`.

    Raises:
        Wrong: no model has that name; the message names those that are nearest.
        CheckpointError: the file is damaged, or describes a model that today's code does not build.

    A warning says so where the model's code has changed since it was trained: its numbers may have, too.
    """
    known = files()
    path = Path(name) if str(name).endswith(".safetensors") else known.get(SHORT.get(str(name), str(name)))
    if path is None:
        near = [n for n in known if n.startswith(str(name))] or difflib.get_close_matches(str(name), known, 3, 0.5)
        raise Wrong(f"there is no model {str(name)[:99]!r}; choose one of {', '.join(near or [*SHORT, *known])}")
    tensors, header = checkpoints.load(path)
    parts = {kind: _within(tensors, kind) for kind in ("model.", "extra.")}
    model = _build(header, parts["model."], path)
    checkpoints.fill(model, parts["model."], path)
    code = header.get("code") if isinstance(header.get("code"), dict) else {}
    kind, header = _kind(header["config"]), header | {"name": _name(path)}
    if kind != "transformer" and code.get("model") != provenance.code_of_model(model):  # that was part of a larger one
        warnings.warn(f"{path.name} was trained by other code of its model; its masks may have changed", stacklevel=2)
    return Run(model.to(place(device)).eval(), header, parts["extra."])


def table(*more: str | Path) -> pd.DataFrame:
    """The models of `files`, a row each: what reads what, how long it was trained, by which code, and MB on disk."""
    rows = {}
    for name, path in files(*more).items():
        header = checkpoints.about(path)
        config = header.get("config", {})
        tokens, rules = config.get("tokens", {}), _rules(config)
        rows[name] = {
            "model": _kind(config),
            "reads": tokens.get("backbone") or config.get("network") or "pixels",
            "slots": rules.get("slots") or rules.get("model", {}).get("num_slots", 11 if tokens else None),
            "steps": config.get("recipe", {}).get("steps"),
            "seed": header.get("seed"),
            "revision": header.get("revision"),
            "MB": round(path.stat().st_size / 1e6, 1),
        }
    return pd.DataFrame(rows).T


def grid_of(config: dict[str, Any]) -> int:
    """Side of the token grid that a model of tokens is used on: that which it, or what it began from, ended with."""
    if config.get("start"):
        return grid_of(config["start"]["config"])
    return config["tokens"]["grid"] // (2 if config.get("rules", {}).get("coarse") == 1.0 else 1)


def pictures(source: Any) -> tuple[Tensor, bool]:
    """`clips.pictures`, but what is wrong is one line in a notebook too, and says of an upload what to do."""
    try:
        return clips.pictures(source)
    except DataError as error:
        raise Wrong(f"{error}; {clips.OTHERS}" if isinstance(source, bytes) else str(error)) from None


_loaded = lru_cache(maxsize=8)(load)


def run_of(model: str | Path | Run, device: str, video: bool) -> tuple[Run, str]:
    """A model that is loaded once, or the one handed in, and its name; of a video the one that follows slots."""
    if isinstance(model, Run):
        return model, model.header.get("name", "")
    name = SHORT.get(str(model), str(model))
    name = FOLLOWS.get(name, name) if video else name
    return _loaded(name, device), name


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def is_of_streets(run: Run) -> bool:
    """Whether a model is for `lib.anomaly_of`, else for `lib.masks_of`."""
    return _kind(run.header["config"]) == "segmenter"


MOST = 24  # slots, where any number can be drawn


def attention_of(model: nn.Module) -> SlotAttention:
    """The Slot Attention of a model of this workbook. Raises Wrong for one that has none."""
    image_model = getattr(model, "image_model", model)
    found = getattr(image_model, "slot_attention", getattr(image_model, "attention", None))
    if found is None:
        raise Wrong(f"a {type(model).__name__} has no slots; use lib.anomaly_of, or another model")
    return found


def most_slots(model: nn.Module) -> int:
    """How many slots a model can begin with: any number that is drawn, or those that were learned."""
    attention = attention_of(model)
    return MOST if attention.init == "gaussian" else attention.num_slots


def with_slots(model: nn.Module, count: int) -> nn.Module:
    """A copy of a model that begins with another number of slots, at least 2; of learned ones some, evenly.

    Raises:
        Wrong: fewer than 2, or more than `most_slots`.
    """
    most = most_slots(model)
    if not 2 <= count <= most:
        raise Wrong(f"{count} slots; this model takes from 2 to {most}")
    model = deepcopy(model)
    attention = attention_of(model)
    if attention.init != "gaussian":
        pick = torch.linspace(0, attention.num_slots - 1, count).round().long()
        attention.init_mean = nn.Parameter(attention.init_mean.detach()[:, pick], requires_grad=False)
    attention.num_slots = count
    return model


def _name(path: Path) -> str:
    return re.sub(r"-[0-9a-f]{6}$", "", path.stem)


def _within(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}


def _rules(config: dict[str, Any]) -> dict[str, Any]:
    """Of ex_comparison they lie one level deeper."""
    return config.get("rules") or config.get("model", {}).get("rules", {})


def _kind(config: dict[str, Any]) -> str:
    """What a model is; "own" where only its notebook builds it."""
    rules, network = config.get("rules", {}), config.get("network", {})
    if "objective" in config or "treatment" in config:
        return "transformer" if "objective" in config else "segmenter"
    if network.get("network", "Dinosaur") != "Dinosaur" or config.get("model", {}).get("channels"):
        return "own"
    return "video" if "video" in rules else "pixels" if "temperature" in rules else "tokens"


def _build(header: dict[str, Any], weights: dict[str, Tensor], path: Path) -> nn.Module:
    """The model before its weights, as the header describes it."""
    try:
        config = header["config"]
        kind, rules = _kind(config), _rules(config)
        if kind == "transformer":
            return small_vit.build()
        if kind == "segmenter":
            from lib.models.segmenters import Segmenter  # whose library takes seconds to import

            classes = len(weights["network.segmentation_head.0.weight"])
            return Segmenter(config["network"], classes, pretrained=False)
        if kind == "pixels":
            same = {key: rules[key] for key in ("stride", "attention_temperature", "glorot")}
            return Autoencoder(config["size"], rules["slots"], layer=rules.get("layer") is not None, **same)
        if kind == "own":
            raise ValueError("only its notebook does")
        if kind == "video":
            return VideoModel(Dinosaur(len(weights["image_model.mean"]), **rules["model"]), **rules["video"])
        given = {k: v for k, v in config.get("network", {}).items() if k != "network"}
        return Dinosaur(len(weights["mean"]), **given, **rules["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path.name} describes a model that is not built here ({error!r:.150})") from error
