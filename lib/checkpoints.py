"""Weights on disk: safetensors with their own provenance in the header, written atomically."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lib.files import written
from lib.provenance import number, revision

HEADER, DEPTH = 20_000_000, 30  # bytes that a provenance may have, and levels of nesting
DAMAGE = (SafetensorError, OSError, KeyError, ValueError, RecursionError)  # what reading a damaged file raises


class OneLine:
    """An error that a notebook shows in one line, without a page of traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class CheckpointError(OneLine, RuntimeError):
    """A checkpoint is damaged or belongs to another configuration; the message names the file and the remedy."""


def save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to `path`; whoever reads sees the old file or the new one, never half.

    Introduced in notebooks/ex_slot1.ipynb. The caller says what the weights are (configuration, seed, data
    fingerprint, metrics); the git revision is added here.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    header = {"revision": revision(), **header}
    # Clones, because tied weights must not share memory there.
    separate = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    content = save_tensors(separate, metadata={"provenance": json.dumps(header, default=number)})
    with written(path) as temporary:  # not save_file, which leaves files of its own behind when it is killed
        temporary.write_bytes(content)


def load(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, holds values that are not finite, or was not written by `save`.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            header = _header(file)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        if bad := [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]:
            raise ValueError(f"{bad[0]} holds values that are not finite")
        return tensors, header
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; run the notebook that trains it") from error
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of this workbook ({error}); delete it to train again, "
            f"or restore it with git checkout"
        ) from error


def about(path: Path) -> dict[str, Any]:
    """The header alone; empty where there is none that can be read."""
    with suppress(*DAMAGE), safe_open(path, framework="pt") as file:
        return _header(file)
    return {}


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into a model, floats as float32.

    Raises:
        CheckpointError: keys or shapes are not the model's; the message names `path`, where they came from.
    """
    try:
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except RuntimeError as error:
        found = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} holds no weights of this model ({found}); delete it to train again") from error


def digest(tensors: dict[str, Tensor]) -> str:
    """Twelve digits of a hash of names, shapes and values."""
    found = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        found.update(f"{key} {value.dtype} {list(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def _header(file: Any) -> dict[str, Any]:
    text = (file.metadata() or {})["provenance"]
    if len(text) > HEADER:
        raise ValueError(f"its provenance has {len(text):,} bytes")
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError(f"its provenance is no dict but {header!r:.60}")
    if _depth(header) > DEPTH:
        raise ValueError(f"its provenance is nested more than {DEPTH} deep")
    return header


def _depth(value: Any) -> int:
    within = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, within), default=0) if isinstance(value, dict | list) else 0
