"""From the rows of sweeps to tables and figures. Introduced in notebooks/ex_dino4.ipynb."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from lib import features, plots
from lib.data.movi import SIZES, MoviDataset
from lib.masks import guided, merge
from lib.metrics import objects
from lib.models.video import VideoModel
from lib.studies.objects.final import ObjectStudy


def missed(truth: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Object pixels that no slot holds well, an image: sum over objects of area x (1 - best IoU). `[n]`.

    Args:
        truth: `[n, H, W]`; masks: `[n, K, H, W]`.
    """
    parts = (by_object(ids[None], soft[None]) for ids, soft in zip(truth, masks, strict=True))
    return torch.tensor([float((part.area * (1 - part.best)).sum()) for part in parts])


def runs_of(
    stages: dict[str, dict[str, str]],
    trained: list[dict],
    untrained: list[dict],
    small: list[dict],
    videos: list[dict],
) -> list[dict]:
    """Rows of the four sweeps as runs for `results.write`.

    Video measures join the runs of ours, those of `there_and_back` are "ours_cyclic"; `frame_fg_ari` is that of single
    frames of the same videos. `time` and `memory` of trainings on more tokens are relative to the fewest tokens of the
    same seed, because seconds hold for one machine only. `mask_similarity` is of raw masks alone: slots that were
    joined leave masks of zeros.

    Args:
        stages: of each configuration, the stages of its masks that are reported, and under which name.
    """
    runs, over_time = [], {v["params"]["seed"]: v["metrics"] for v in videos if not v["params"].get("cyclic")}
    for row in trained + untrained:
        p, metrics = row["params"], row["metrics"]
        name = p.get("config", p.get("control"))
        tracked = over_time.get(p["seed"], {}) if name == "ours" else {}
        for stage, config in stages[name].items():
            found = _joined(stage, metrics[stage]) | _over_time(tracked.get(stage, {}))
            runs.append({"config": config, "seed": p["seed"], "metrics": found})
    for p, metrics in ((v["params"], v["metrics"]) for v in videos):
        if p.get("cyclic"):
            runs.append({"config": "ours_cyclic", "seed": p["seed"], "metrics": _over_time(metrics["refined"])})
    for row in small:
        p, m = row["params"], row["metrics"]
        name, cost = f"slots_{p['slots']}", {}
        if p["sweep"] == "tokens":
            name = f"tokens_{p['grid']}"
            alike = [r for r in small if all(r["params"][k] == p[k] for k in ("sweep", "seed"))]
            least = min(alike, key=lambda r: r["params"]["grid"])["metrics"]
            cost = {
                key: (m[what] or np.nan) / (least[what] or np.nan)
                for key, what in (("time", "seconds"), ("memory", "peak_mb"))
            }
        runs.append({"config": name, "seed": p["seed"], "metrics": _joined("refined", m["refined"]) | cost})
    return runs


def _joined(stage: str, metrics: dict) -> dict:
    return {k: v for k, v in metrics.items() if k != "mask_similarity" or stage in ("raw", "attention")}


def _over_time(metrics: dict) -> dict:
    kept = {k: v for k, v in metrics.items() if k.startswith(("video", "identity", "keep"))}
    return kept | ({"frame_fg_ari": metrics["fg_ari"]} if "fg_ari" in metrics else {})


def bleeding(truth: torch.Tensor, masks: torch.Tensor) -> dict[int, float]:
    """Which share of a soft mask's mass lies outside its region, by object id; 0 is none.

    The mask of an object is the slot with most of its mass on it. The original study took each slot with the region
    that it overlaps most, background included, so its "large objects" may be background.

    Args:
        truth: ids `[H, W]`; masks: `[K, H, W]`.
    """
    flat, shares = objects.finite("masks", masks).flatten(1).double(), {}
    ids = objects.ids_of("ground truth", truth).ravel()
    for i in np.unique(ids[ids > 0]).tolist():
        inside = flat[:, torch.as_tensor(ids == i, device=flat.device)].sum(1)
        slot = int(inside.argmax())
        shares[i] = float(1 - inside[slot] / flat[slot].sum().clamp(min=1e-12))
    return shares


def bleeding_by_size(truth: torch.Tensor, masks: torch.Tensor, sizes: list[np.ndarray]) -> dict[str, list[float]]:
    """`bleeding` of every object in sight, small and large apart.

    Args:
        truth: `[n, H, W]`; masks: `[n, K, H, W]`; sizes: of each image's objects in the order of their ids, index into
            `movi.SIZES`.
    """
    found: dict[str, list[float]] = {name: [] for name in SIZES}
    for ids, soft, size in zip(truth, masks, sizes, strict=True):
        for i, share in bleeding(ids, soft).items():
            found[SIZES[size[i - 1]]].append(share)
    return found


def by_object(truth: torch.Tensor, masks: torch.Tensor) -> pd.DataFrame:
    """One row an object in sight: its "area" in pixels, "objects" in its image, and "best", its IoU with any slot.

    Args:
        truth: `[n, H, W]`; masks: `[n, K, H, W]`.
    """
    rows = []
    for ids, soft in zip(objects.ids_of("ground truth", truth), objects.finite("masks", masks), strict=True):
        areas = np.unique(ids[ids > 0], return_counts=True)[1]
        best = objects.iou_matrix(ids, soft.argmax(0)).max(1) if len(areas) else areas
        rows += [(area, len(areas), iou) for area, iou in zip(areas, best, strict=True)]
    return pd.DataFrame(rows, columns=["area", "objects", "best"])


def by_scene(values: np.ndarray, scenes: int) -> np.ndarray:
    """Means over the images of each scene, `[scenes]`, which are not independent of each other; NaN where all are.

    Args:
        values: one an image, scene by scene; NaN where there was nothing to measure.
    """
    return pd.DataFrame(np.asarray(values, float).reshape(scenes, -1)).mean(axis=1).to_numpy()


def curves(axis: plt.Axes, small: list[dict], sweep: str) -> None:
    """FG-ARI and mBO of the short trainings, raw and refined, mean and sd over seeds, against what the sweep varies."""
    key, label = {"slots": ("slots", "slots K"), "tokens": ("grid", "tokens a side")}[sweep]
    some = [r for r in small if r["params"]["sweep"] == sweep]
    for colour, stage, metric in (
        (0, "refined", "fg_ari"),
        (3, "refined", "mbo"),
        (4, "raw", "fg_ari"),
        (7, "raw", "mbo"),
    ):
        points = pd.DataFrame([(r["params"][key], r["metrics"][stage][metric]) for r in some], columns=["x", "y"])
        seen = points.groupby("x").y.agg(["mean", "std"])
        name = f"{'FG-ARI' if metric == 'fg_ari' else 'mBO'}, {stage}"
        axis.errorbar(seen.index, seen["mean"], seen["std"], color=plots.SLOTS[colour], label=name, capsize=3)
    seeds = len({r["params"]["seed"] for r in some})
    axis.set(xlabel=label, xticks=seen.index, ylim=(0, 1), title=f"short trainings, {seeds} seeds")
    axis.grid(alpha=0.3)


@torch.no_grad()
def drawn(
    study: ObjectStudy, model: VideoModel, threshold: float, scene: int, radius: int = 12
) -> tuple[torch.Tensor, ...]:
    """A held-out video `[T, 3, H, W]`, its ids `[T, H, W]` and the masks `[T, K, H, W]` of one start, refined.

    Only that scene's tokens are computed.
    """
    found = MoviDataset(study.root, study.held_out, fields=("video", "segmentations"))[scene]
    frames = torch.from_numpy(found.video).permute(0, 3, 1, 2) / 255
    network = study.network()
    torch.manual_seed(0)
    seen = model(features.tokens_of(network, frames.to(network.mean.device), study.image_px, 32)[None])
    merged = merge(seen.attention, seen.slots, seen.places, threshold)[0]
    return frames, torch.from_numpy(found.masks), guided(merged, frames, radius).cpu()


def identified(truth: torch.Tensor, masks: dict[str, torch.Tensor]) -> tuple[plt.Figure, pd.DataFrame]:
    """Best IoU of objects by their size, in thirds of their pixels in sight, and by how many are in the image.

    Args:
        truth: `[n, H, W]`; masks: of each stage, `[n, K, H, W]`.

    Returns:
        A figure of two panels, and means over objects, a row a group and a column a stage.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    means = {}
    for colour, (stage, soft) in zip((4, 2, 0), masks.items(), strict=True):
        each = by_object(truth, soft)
        size = pd.qcut(each.area.rank(method="first"), 3, labels=["small", "medium", "large"])
        crowd = pd.cut(each.objects, [0, 4, 6, 99], labels=["1 to 4", "5 or 6", "7 or more"])
        for axis, group in zip(axes, (size, crowd), strict=True):
            mean = each.groupby(group, observed=True).best.mean()
            axis.plot(mean.index.astype(str), mean, "o-", color=plots.SLOTS[colour], label=stage)
            means.setdefault(stage, {}).update(dict(mean))
    ends = ", ".join(f"{end:.0f}" for end in each.area.groupby(size, observed=True).max())
    axes[0].set(
        xlabel=f"size of the object, in thirds (to {ends} px)", ylabel="best IoU, mean over objects", ylim=(0, 1)
    )
    axes[1].set(xlabel="objects in the image")
    axes[0].legend(fontsize=8)
    return figure, pd.DataFrame(means)


def course(trained: list[dict], models: list[str]) -> plt.Figure:
    """Raw masks of held-out images over the steps of `models`, and the first one's merged masks over thresholds."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    rows = {name: [r["metrics"] for r in trained if r["params"]["config"] == name] for name in models}
    names = ("step", "fg_ari", "mbo")
    told = {n: [[dict(zip(names, c, strict=True)) for c in m["course"]] for m in each] for n, each in rows.items()}
    for axis, key, label in zip(axes, names[1:], ("FG-ARI, raw", "mBO, raw"), strict=False):
        plots.curves(axis, {n: each for n, each in told.items() if each and all(each)}, key, label)
    curve = np.mean([m["tried"] for m in rows[models[0]]], axis=0)  # thresholds, FG-ARI and mBO
    chosen = np.mean([m["threshold"] for m in rows[models[0]]])
    for colour, column, label in ((0, 1, "FG-ARI, merged"), (3, 2, "mBO, merged")):
        axes[2].plot(curve[:, 0], curve[:, column], color=plots.SLOTS[colour], label=label)
        axes[2].plot(chosen, np.interp(chosen, curve[:, 0], curve[:, column]), "o", color=plots.SLOTS[colour])
    axes[2].set(xlabel="threshold of merging", ylim=(0, 1))
    axes[2].grid(alpha=0.3)
    for axis in axes[::2]:
        axis.legend(fontsize=7)
    return figure


def spilling(bleeding: dict[str, list[float]], small: list[dict]) -> plt.Figure:
    """Shares of masks outside their objects, as of `bleeding_by_size`, and `curves` of both sweeps.

    Args:
        small: rows of the short trainings, as `curves` takes them.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    axes[0].boxplot(bleeding.values(), tick_labels=list(bleeding), showfliers=False)
    axes[0].tick_params(axis="x", labelsize=7)  # larger, "refined" runs into its neighbour
    axes[0].set(ylabel="share of mask outside, 0 to 1", title="bleeding, by size of object")
    for axis, sweep in zip(axes[1:], ("slots", "tokens"), strict=True):
        curves(axis, small, sweep)
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    return figure


def named(runs: list[dict], configs: list[str]) -> plt.Figure:
    """FG-ARI of frames, of videos whose slots an oracle names frame by frame, and of videos: mean and sd over seeds.

    Args:
        runs: with "config" and "metrics"; configs: which of them, from top to bottom.
    """
    figure, axis = plt.subplots(figsize=(9, 5.5), layout="constrained")
    labels = {"fg_ari": "each frame", "video_fg_ari_renamed": "video, names by an oracle", "video_fg_ari": "video"}
    for i, (key, label) in enumerate(labels.items()):
        found = [[r["metrics"][key] for r in runs if r["config"] == config] for config in configs]
        spread = [np.std(f, ddof=1) if len(f) > 1 else 0 for f in found]
        look = {"xerr": spread, "fmt": "os^"[i], "color": plots.SLOTS[i], "capsize": 2, "label": label}
        axis.errorbar([np.mean(f) for f in found], np.arange(len(configs)) + 0.2 * (i - 1), **look)
    axis.set(yticks=range(len(configs)), yticklabels=configs, xlabel="FG-ARI", xlim=(0, 1))
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure
