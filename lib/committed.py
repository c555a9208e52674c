"""What was measured or trained once and is kept, so that only what is missing or out of date is done again."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import ROOT, checkpoints, provenance, results, sweeps, training
from lib.checkpoints import OneLine
from lib.sweeps import Row
from lib.training import Fitted, Recipe, Run, State


class NothingMeasured(OneLine, RuntimeError):
    """There is no row to show; the message says why."""


def rows(
    notebook: str, trial: Callable[..., dict[str, Any]], grid: list[dict[str, Any]], data: str | Callable[..., str]
) -> list[Row]:
    """The rows of `sweeps.run` for every `params` of the grid that can be measured: `{"params", "metrics", ...}`.

    Committed rows are read, all others are run; what failed is named in a printed line and left out. All rows go to
    `figures/results/sweep_<notebook>.json` under the output folder, beside those that are there. Introduced in
    notebooks/ex_slot1.ipynb.

    Raises:
        NothingMeasured: there is nothing to measure, or every trial failed.
    """
    if not grid:
        raise NothingMeasured(f"{notebook}: nothing to measure; give at least one seed and one configuration")
    file = Path("figures", "results", f"sweep_{notebook}.json")
    found = sweeps.run(trial, grid, name=notebook, data=data, committed=ROOT / file)
    sweeps.save(found, results.out() / file, beside=True)
    good = [row for row in found if "error" not in row]
    if not good:
        raise NothingMeasured(f"{notebook}: every trial failed; the first: {found[0]['params']}: {found[0]['error']}")
    return good


def find(rows: list[Row], **params: Any) -> list[Row]:
    """All rows with these parameters; by configuration and seed, because a row that failed leaves no gap."""
    return [row for row in rows if all(row["params"].get(k) == v for k, v in params.items())]


def one(rows: list[Row], **params: Any) -> dict[str, Any]:
    """The metrics of the row with these parameters.

    Raises:
        NothingMeasured: there is none, because its trial failed or was not asked for.
    """
    for row in find(rows, **params):
        return row["metrics"]
    raise NothingMeasured(f"there is no row with {params}: it failed, see above, or was not asked for")


def load_or_train(
    name: str,
    build: Callable[[], nn.Module],
    train: Callable[[nn.Module, State], Fitted],
    recipe: Recipe,
    config: dict[str, Any],
    data: str,
) -> Run:
    """Load the checkpoint of this configuration and these data if today's code gives its masks; else train and keep it.

    Introduced in notebooks/ex_slot1.ipynb. Its file is named after `name` and a hash of recipe, configuration and data,
    so no two runs share one, nor the state of one that was killed. Looked for in the run's output folder first, then
    among the committed ones, which a run elsewhere never overwrites. One line says what is trained, and why.

    Args:
        build: makes the model, from torch's generator, which is seeded with the recipe's seed here.
        train: `train(model, state)` trains in place, resuming from `state`.
        recipe: how it is trained.
        config: everything else that makes the run what it is, JSON-able.
        data: fingerprint of all data that enter, those that are only watched included.

    Raises:
        CheckpointError: the file is damaged, or holds another model.
        ValueError: no steps, or a configuration that is not JSON.
    """
    if recipe.steps < 1:
        raise ValueError(f"{name}: steps is {recipe.steps}; train at least one")
    torch.manual_seed(recipe.seed)
    model = build()
    wanted = provenance.as_json(
        {"config": {"recipe": asdict(recipe), **config}, "data": data}, f"the configuration of {name}"
    )
    stamps = {"model": provenance.code_of_model(model, build), "training": provenance.code(train)}
    file = f"{name}-{provenance.short(wanted)[:6]}.safetensors"
    folders = (results.out() / "checkpoints", ROOT / "checkpoints")
    why = ""
    for path in (*(folder / file for folder in folders), folders[1] / f"{name}.safetensors"):  # the last: of backbones
        header = checkpoints.about(path) if path.exists() else {}
        if path.exists() and not header:
            checkpoints.load(path)  # says what is wrong with it
        if {k: header.get(k) for k in wanted} != wanted:
            continue
        made = header["code"] if isinstance(header.get("code"), dict) else {}
        if made.get("model") != stamps["model"]:
            why = f"{path.name} was trained by other code of the model"
        elif made.get("training") != stamps["training"] and provenance.remeasure():
            why = f"{path.name} was trained by other code"
        else:
            if made.get("training") != stamps["training"] and sweeps.FOREIGN.get() is not None:
                sweeps.FOREIGN.get().append(path.name)
            tensors, header = checkpoints.load(path)
            checkpoints.fill(model, {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, path)
            return Run(model.eval(), header, {k[6:]: v for k, v in tensors.items() if k.startswith("extra.")})
    print(f"{name}: trains {recipe.steps} steps; {why or _nearest(name, folders, wanted)}")
    path = folders[0] / file
    state = State(path.with_suffix(".state.safetensors"), wanted | {"code": stamps})
    history, extra, seconds = train(model, state)
    header = wanted | {
        "code": stamps,
        "seed": recipe.seed,
        "history": history,
        "metrics": history[-1],
        "seconds": round(seconds, 1),
        "device": results.device_name(next(model.parameters()).device),
        "versions": results.versions(),
    }
    # What is measured from here on is what is on disk: weights pass through half precision in both branches.
    weights = training.half(model.cpu().state_dict())
    checkpoints.save(
        path, {f"model.{k}": v for k, v in weights.items()} | {f"extra.{k}": v for k, v in extra.items()}, header
    )
    state.path.unlink(missing_ok=True)
    checkpoints.fill(model, weights, path)
    return Run(model.eval(), header, extra)


def _nearest(name: str, folders: tuple[Path, ...], wanted: dict[str, Any]) -> str:
    """In what the most similar checkpoint of that name differs."""
    found = {p: checkpoints.about(p) for f in folders for p in sorted(f.glob(f"{name}-??????.safetensors"))}
    differences = {}
    for path, header in found.items():
        a, b = (_flat({k: h.get(k) for k in wanted}) for h in (header, wanted))
        keys = [k for k in {**a, **b} if a.get(k) != b.get(k)]
        differences[path] = [f"{k} {a.get(k, 'nothing')!s:.40}, here {b.get(k, 'nothing')!s:.40}" for k in keys]
    if not differences:
        return "there is no checkpoint of that name"
    path = min(differences, key=lambda p: len(differences[p]))
    more = len(differences[path]) - 3
    return f"{path.name} has {'; '.join(differences[path][:3])}{f' and {more} more' if more > 0 else ''}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, each in value.items() for k, v in _flat(each, f"{prefix}.{key}".lstrip(".")).items()}
