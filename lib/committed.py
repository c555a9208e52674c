"""Numbers that were measured once and are committed, so that only the checkpoints of pictures need be."""

from collections.abc import Callable
from typing import Any

from lib import ROOT, results, sweeps


def rows(
    notebook: str, trial: Callable[..., dict[str, Any]], grid: list[dict[str, Any]], data: str
) -> list[dict[str, Any]]:
    """What `trial(**params)` returns for every `params` of the grid: committed where parameters and data match.

    All others are run, see `sweeps.run`. The rows are written to `figures/results/sweep_<notebook>.json` under the
    output folder. Introduced in notebooks/ex_slot1.ipynb.

    Raises:
        RuntimeError: a trial failed; the others are kept.
    """
    committed = ROOT / "figures" / "results" / f"sweep_{notebook}.json"
    found = sweeps.run(trial, grid, name=notebook, data=data, committed=committed)
    sweeps.save(found, results.out() / "figures" / "results" / committed.name)
    for row in found:
        if "error" in row:
            raise RuntimeError(f"{notebook}: {row['params']} failed: {row['error']}; mend it and run the cell again")
    return [row["metrics"] for row in found]
