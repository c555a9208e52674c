"""Weights on disk: safetensors with their own provenance in the header, written atomically."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib import ROOT


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or belongs to another configuration; the message names the file and the remedy."""


def save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to `path`; whoever reads sees the old file or the new one, never half.

    Introduced in notebooks/ex_slot1.ipynb. The caller says what the weights are (configuration, seed, data
    fingerprint, metrics); the git revision is added here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"revision": revision(), **header}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(contiguous, temporary, metadata={"provenance": json.dumps(header)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, or was not written by `save`.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            return tensors, json.loads((file.metadata() or {})["provenance"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; run the notebook that trains it") from error
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of this workbook ({error}); delete it to train again, "
            f"or restore it with git checkout"
        ) from error


def revision() -> str:
    """The git revision of the workbook, with `+` when the working tree differs; "unknown" outside git."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in half precision: what is committed is small, and what is measured is what is committed."""
    return {k: v.to(torch.float16) if v.is_floating_point() else v for k, v in tensors.items()}
