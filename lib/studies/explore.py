"""Explorers for JupyterLab: `from lib.studies import explore`, then `explore.objects()` in a cell of its own.

Each works in an empty notebook and needs no other cell. What was computed stays in memory, so a control that comes back
to where it was answers at once. Introduced in notebooks/ex_dino4.ipynb.
"""

import asyncio
import base64
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from lib import ROOT, plots
from lib import explore as ui
from lib import results as stored
from lib.anomaly import Score, Statistics
from lib.apply import scenes, zoo
from lib.data.movi import MoviDataset
from lib.explore import Explorer, Panel, Pixels, slots
from lib.metrics import objects as measures
from lib.metrics import tracking
from lib.metrics.intervals import label
from lib.models.slot_attention import INITIALISATIONS
from lib.studies.objects.lab import BASES, Lab

__all__ = ["alarms", "collapse", "objects", "own", "results", "slots", "video"]

MOVI, STREETS = ROOT / "data" / "movi_a", ROOT / "data" / "streethazards"
STAGES = ("refined", "merged", "raw")
MEASURES = ("fg_ari", "ari", "mbo", "miou", "mask_similarity", "active_slots")
PHOTOGRAPHS = "ex_slot2-photos-0"  # the model of pixels that has seen photographs
RED = np.array([1.0, 0.0, 0.3])
NARROW = 200  # px, where five pictures lie beside each other


def _scenes(root: Path | Dataset, split: str) -> Dataset:
    return root if isinstance(root, Dataset) else MoviDataset(root, split, ("video", "segmentations"))


def objects(root: Path | Dataset = MOVI, split: str = "test", models: Sequence[str | Path] = ()) -> Explorer:
    """Scenes, and what a model of tokens makes of them; click a pixel to see whose it is.

    Introduced in notebooks/ex_dino4.ipynb.

    Args:
        root, split: of MOVi-A, see `MoviDataset`; or a data set of your own, such as `folders.FolderDataset`.
        models: paths of checkpoints of your own, beside the committed ones.
    """

    def build() -> Panel:
        data, known = _scenes(root, split), zoo.table(*models)
        known = known[known.model == "tokens"]
        first = zoo.SHORT["ex_dino4"] if zoo.SHORT["ex_dino4"] in known.index else known.index[0]
        scene = lru_cache(8)(data.__getitem__)
        load = lru_cache(zoo.load)

        def image(i: int, t: int) -> Tensor:
            return torch.from_numpy(scene(i).video[t : t + 1]).permute(0, 3, 1, 2) / 255

        @lru_cache(64)
        def seen(i: int, t: int, name: str, kind: str) -> scenes.Seen:
            return scenes.see(load(name), image(i, t), kind=kind)

        @lru_cache(64)
        def masks(i: int, t: int, name: str, kind: str, stage: str, temperature: float) -> tuple[Tensor, dict]:
            usual = scenes.finish(name, load(name).header)
            at = 0.0 if stage == "raw" else usual.threshold
            joined = scenes.joined(seen(i, t, name, kind), at, temperature)
            found = scenes.on_images(joined, image(i, t), usual.radius if stage == "refined" else 0).cpu()
            values = measures.evaluate(torch.from_numpy(scene(i).masks[t : t + 1]), found)
            asked = [key for key in MEASURES if stage == "raw" or key != "mask_similarity"]  # joined, slots are zeros
            return found[0], {key: float(values[key][0]) for key in asked}

        def draw(index, frame, model, stage, kind, temperature, view, row, column) -> tuple[Pixels, str]:
            found, values = masks(index, frame, model, kind, stage, temperature)
            shown, ids = image(index, frame)[0], scene(index).masks[frame]
            share, raw = found[:, row, column], seen(index, frame, model, kind).masks[0]
            slot, side = int(share.argmax()), round(raw.shape[-1] ** 0.5)
            token = row * side // len(ids) * side + column * side // len(ids[0])
            winner = int(raw[:, token].argmax())
            pictures = {
                "image": ui.marked(plots.rgb(shown), row, column),
                "ground truth": ui.marked(plots.labels(torch.from_numpy(ids)), row, column),
                f"{stage} masks": ui.marked(plots.overlay(shown, found, 0.75), row, column),
                f"slot {slot}, of the pixel": found[slot].numpy(),
                f"{kind} of slot {winner}, raw": ui.resized(raw[winner].unflatten(0, (side, side)).numpy(), ids.shape),
            }
            if view == "a panel a slot":
                used = [k for k in range(len(found)) if float(found[k].max()) > 0.01]
                pictures |= {f"slot {k}": plots.rgb(shown * found[k] + 1 - found[k]) for k in used}
            told = ", ".join(f"{label(key)} {value:.3g}" for key, value in values.items())
            whose = f"object {ids[row, column]}" if ids[row, column] else "background"
            says = f"slot {slot} has {float(share[slot]):.2f} of the pixel in row {row}, column {column} ({whose})"
            return ui.sheet(pictures, 5, NARROW), f"{told}<br>{says}"

        count, (frames, height, width) = len(data), scene(0).masks.shape
        names = {name: list(known.index[known.reads == name]) for name in dict.fromkeys(known.reads)}
        network = ui.choice("backbone", names, known.loc[first, "reads"], "whose frozen tokens are grouped")
        controls = {
            "index": ui.number("scene", 0, count - 1, 0, f"of the {split} split"),
            "frame": ui.number("frame", 0, frames - 1, 0, "of the video"),
            "model": ui.choice("model", names[network.value], first, "a checkpoint; lib.load gives it"),
            "stage": ui.choice(
                "masks", STAGES, "refined", "the model's, with slots that are alike merged, drawn to edges"
            ),
            "kind": ui.choice("of", scenes.KINDS, "attention", "Slot Attention's masks, or the decoder's"),
            "temperature": ui.scale("temperature", 0.1, 10, 1, "of the masks' softmax, relative to the trained one"),
            "view": ui.choice("show", ("overlay", "a panel a slot"), "overlay", "one picture, or one a slot"),
            "row": ui.number("row", 0, height - 1, height // 2, "of the pixel in question; or click it"),
            "column": ui.number("column", 0, width - 1, width // 2, "of the pixel in question; or click it"),
        }
        panel = Panel(draw, controls, above=[network])

        def offer(_: Any) -> None:
            controls["model"].options = names[network.value]

        def point(x: float, y: float) -> None:
            with panel.held():
                controls["row"].value, controls["column"].value = ui.pixel(x, y, (height, width), NARROW)

        network.observe(offer, "value")
        panel.clicked(point)
        return panel

    return Explorer("explore.objects()", "ex_dino4_failures.png", build)


def video(root: Path | Dataset = MOVI, split: str = "test", model: str | Path = "ex_dino4-video-0") -> Explorer:
    """A video and the slots that are followed through it: play it or go to a frame; who changes its slot is framed.

    Introduced in notebooks/ex_dino4.ipynb; arguments as of `objects`.
    """

    def build() -> Panel:
        data, run = _scenes(root, split), zoo.load(model)
        usual = scenes.finish(run.header["name"], run.header)
        scene = lru_cache(8)(data.__getitem__)

        def images(i: int) -> Tensor:
            return torch.from_numpy(scene(i).video).permute(0, 3, 1, 2) / 255

        @lru_cache(16)
        def seen(i: int) -> scenes.Seen:
            parts = [scenes.tokens_of(run, frame[None]) for frame in panel.each(images(i), "tokens")]
            return scenes.see(run, images(i), tokens=torch.cat(parts), video=True)

        @lru_cache(16)
        def followed(i: int, stage: str) -> tuple[list[Pixels], list[str], str]:
            """Everything about a video, drawn: so that playing it takes no time."""
            tokens = scenes.joined(seen(i), 0.0 if stage == "raw" else usual.threshold)
            radius = usual.radius if stage == "refined" else 0
            pairs = panel.each(list(zip(tokens[:, None], images(i)[:, None], strict=True)), "masks")
            masks = torch.cat([scenes.on_images(*pair, radius) for pair in pairs])
            winners, truth = masks.argmax(1).cpu().numpy(), scene(i).masks
            lost, line = switches(truth, winners), held_by(truth, winners)
            pictures, says = [], []
            for t in panel.each(range(len(truth)), "frames"):
                overlay = plots.overlay(images(i)[t], masks[t], 0.75)
                for at in lost[t]:
                    _frame(overlay, truth[t] == at)
                now = line.copy()
                now[:, t] = 0.5 * now[:, t]
                shown = {
                    "image": plots.rgb(images(i)[t]),
                    "ground truth": plots.labels(torch.from_numpy(truth[t])),
                    f"{stage} masks": overlay,
                    "slot of each object (row), by frame": ui.resized(now, truth.shape[1:]),
                }
                pictures.append(ui.sheet(shown))
                told = f"object {', '.join(map(str, lost[t]))} changes its slot" if lost[t] else "no object changes"
                says.append(f"frame {t}: {told}")
            whole = {"FG-ARI": measures.fg_ari, "mBO": measures.mbo}
            values = {f"video {name}": measure(truth, winners) for name, measure in whole.items()}
            values |= {"identity switches": tracking.identity_switches(truth, winners)}
            values |= {"keep length": tracking.keep_length(truth, winners)}
            return pictures, says, ", ".join(f"{name} {value:.3g}" for name, value in values.items())

        def draw(index: int, frame: int, stage: str) -> tuple[Pixels, str]:
            pictures, says, values = followed(index, stage)
            return pictures[frame], f"{says[frame]}<br>{values}"

        frames = len(scene(0).masks)
        controls = {
            "index": ui.number("scene", 0, len(data) - 1, 0, f"of the {split} split"),
            "frame": ui.number("frame", 0, frames - 1, 0, "of the video", live=True),
            "stage": ui.choice(
                "masks", STAGES, "refined", "the model's, with slots that are alike merged, drawn to edges"
            ),
        }
        play = widgets.Play(min=0, max=frames - 1, interval=150, tooltip="play the video")
        widgets.jslink((play, "value"), (controls["frame"], "value"))
        panel = Panel(draw, controls, above=[play])
        return panel

    return Explorer("explore.video()", "ex_dino4_film.png", build)


def switches(truth: np.ndarray, winners: np.ndarray) -> list[list[int]]:
    """Of each frame, the objects that another slot holds than in the frame before; ids `[T, H, W]`."""
    found: list[list[int]] = [[] for _ in truth]
    for i, lengths in tracking.runs(truth, winners).items():
        visible = np.flatnonzero((truth == i).any((1, 2)))
        for at in visible[np.cumsum(lengths)[:-1]]:
            found[at].append(i)
    return found


def held_by(truth: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """The colour of the slot that holds each object in each frame, `[objects, T, 3]`; white where it is hidden."""
    line = np.ones((int(truth.max()) or 1, len(truth), 3))
    for t, (ids, won) in enumerate(zip(truth, winners, strict=True)):
        best = np.unique(won)[measures.iou_matrix(ids, won).argmax(1)]
        line[np.unique(ids[ids > 0]).astype(int) - 1, t] = plots.SLOT_RGB[best % len(plots.SLOTS)]
    return line


def _frame(picture: np.ndarray, where: np.ndarray) -> None:
    """A red frame around what is True, in place."""
    (top, bottom), (left, right) = (np.flatnonzero(where.any(axis)).take([0, -1]) for axis in (1, 0))
    for edge in (np.s_[top : bottom + 1, [left, right]], np.s_[[top, bottom], left : right + 1]):
        picture[edge] = RED


def own(source: str | Path = "coffee", model: str | Path = "ex_dino4", pixels: str | Path = PHOTOGRAPHS) -> Explorer:
    """Your own image or clip: what a model of pixels and one of tokens make of it, to look at and to take away.

    Introduced in notebooks/ex_slot3.ipynb.

    Args:
        source: what is shown first, see `lib.data.clips.pictures`.
        model, pixels: for `lib.load`; the one of tokens and the one of pixels.
    """

    def build() -> Panel:
        runs = {"tokens": zoo.load(model), "pixels": zoo.load(pixels)}
        given: dict[str, Any] = {}
        most, usual = (f(runs["tokens"].model) for f in (zoo.most_slots, lambda m: zoo.attention_of(m).num_slots))

        def read(what: Any) -> None:
            """Take another source; one that cannot be read is said, and the last one stays."""
            with panel.guarded():
                images, video = zoo.pictures(what)
                given.update(images=scenes.shrunk(images), size=tuple(images.shape[-2:]), video=video)
                masks.cache_clear()
                tokens.cache_clear()
                links.value = ""
                with panel.held():
                    frame.max, frame.value, frame.layout.display = len(images) - 1, 0, None if video else "none"

        @lru_cache(1)
        def tokens() -> tuple[Tensor, np.ndarray]:
            found = [scenes.tokens_of(runs["tokens"], one[None]) for one in panel.each(given["images"], "tokens")]
            found = torch.cat(found)
            return found, plots.components(found)

        @lru_cache(8)
        def masks(name: str, count: int) -> Tensor:
            run = runs[name]
            some = tokens()[0] if name == "tokens" else None
            seen = scenes.see(run, given["images"], tokens=some, slots=count, video=given["video"])
            usual = scenes.finish(run.header["name"], run.header)
            radius = usual.radius if name == "tokens" else 0
            return scenes.on_images(scenes.joined(seen, usual.threshold), given["images"], radius).cpu()

        def draw(count: int, frame: int) -> tuple[Pixels, str]:
            image = given["images"][frame]
            side, size = round(tokens()[0].shape[1] ** 0.5), tuple(image.shape[-2:])
            colours = tokens()[1][frame].reshape(side, side, 3)
            pictures = {"image": plots.rgb(image), "tokens: three components": ui.resized(colours, size)}
            for name in ("pixels", "tokens"):
                pictures[f"masks of {name}"] = plots.overlay(image, masks(name, count)[frame], 0.65)
            width, height = given["size"][::-1]
            won = [len(masks(name, count)[frame].argmax(0).unique()) for name in ("pixels", "tokens")]
            told = f"{len(given['images'])} frames of {width} x {height} px; of {count} slots {won[0]} (pixels) and"
            return ui.sheet(pictures), f"{told} {won[1]} (tokens) win a pixel."

        def pack() -> None:
            with panel.guarded():
                found = masks("tokens", controls["count"].value)
                now = found[frame.value][None]
                ids = interpolate(now, given["size"], mode="bilinear").argmax(1)[0].numpy()
                links.value = " ".join(
                    _link(name, content)
                    for name, content in (
                        ("masks.png", scenes.png(ids)),
                        ("masks.npz", scenes.npz(masks=found.numpy().astype(np.float16))),
                    )
                )

        frame = ui.number("frame", 0, 0, 0, "of the clip")
        links = widgets.HTML()
        controls = {"count": ui.number("slots", 2, most, usual, "that the models begin with"), "frame": frame}
        file = ui.upload("your file", "an image, or an animated GIF, WebP or PNG")
        path = ui.text("or its path", "", "of an image, of a clip, or of a folder of frames")
        save = ui.button("download", "masks of the model of tokens: ids as PNG, masks as NPZ", pack)
        panel = Panel(draw, controls, [file, path], [save, links], start=lambda: read(source))
        file.observe(lambda change: read(ui.uploaded(change["new"])), "value")
        path.observe(lambda change: read(change["new"].strip() or source), "value")
        return panel

    return Explorer("explore.own()", "ex_slot2_masks.png", build)


def _link(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<a download="{name}" href="data:application/octet-stream;base64,{data}">{name}</a>'


def collapse(root: Path = MOVI) -> Explorer:
    """Choose how slots begin, their frames, temperature and diversity; train a few hundred steps; stop, reset.

    32 images are learned from and four held-out ones watched, on 16 x 16 tokens: a toy, in which collapse and its end
    are seen in a minute. The numbers of ex_dino2 are those of its own trainings. It is stopped by its button: a kernel
    hears of interrupts only while a cell runs.

    Introduced in notebooks/ex_dino2.ipynb.

    Args:
        root: of MOVi-A.
    """

    def build() -> Panel:
        made: list[Lab] = []
        running: list[asyncio.Task] = []

        def settings() -> dict[str, Any]:
            return {name: control.value for name, control in controls.items() if name != "steps"}

        def begin() -> None:
            with panel.guarded():
                made.append(Lab(root, panel.each))
            reset()

        def reset(_: Any = None) -> None:
            stop()
            with panel.guarded():
                if not made:
                    return
                made[0].reset(**settings())
                panel.update()

        def stop() -> None:
            if running:
                running.pop().cancel()

        def train() -> None:
            """In the kernel's own loop, so that the buttons answer between steps."""
            if not running or running[0].done():
                running[:] = [asyncio.get_running_loop().create_task(learn(made[0]))]

        async def learn(lab: Lab) -> None:
            with panel.guarded():
                while lab.step < controls["steps"].value:
                    lab.learn()
                    if lab.step % 10 == 0 or lab.step == controls["steps"].value:
                        lab.measure()
                        panel.update()
                    await asyncio.sleep(0)

        def draw(steps: int, **_: Any) -> tuple[Pixels, str]:
            lab = made[0]
            second = {f"{name} ": picture for name, picture in lab.pictures(1).items()}
            curves = {"curves, 0 to 1": ui.lines(lab.curves(), max(steps, lab.step))}
            now = {name: f"{name} {value:.3g}" for name, value in lab.history[-1].items()}
            told = f"{now.pop('step')} of {steps}: {', '.join(now.values())}; similarity 1: all slots draw one mask."
            return ui.sheet(lab.pictures(0) | curves | second, 5, NARROW), told

        controls = {
            "base": ui.choice("model", BASES, "ours", "what the settings below are changed in"),
            "init": ui.choice("slots begin", INITIALISATIONS, "gaussian", "drawn, or learned, or with a place each"),
            "frames": ui.switch("reference frames", True, "slots have a place and a width of their own"),
            "temperature": ui.scale("mask temperature", 0.05, 3, 1, "of the decoder's masks"),
            "diversity": ui.choice("diversity", (0.0, 0.01, 0.1, 1.0), 0.0, "weight of the cosine between slots"),
            "steps": ui.number("steps", 50, 500, 200, "to train at most"),
        }
        buttons = [
            ui.button("train", "begin, or go on", train),
            ui.button("stop", "after this step; what was learned stays", stop),
            ui.button("reset", "begin anew with what the controls say", reset),
        ]
        panel = Panel(draw, controls, below=buttons, start=begin)
        for name, control in controls.items():
            control.unobserve(panel.update, "value")
            if name != "steps":
                control.observe(reset, "value")
        return panel

    return Explorer("explore.collapse()", "ex_dino2_effects.png", build)


def alarms(root: Path = STREETS, model: str | Path = "streethazards", scores: Sequence[str] = ()) -> Explorer:
    """A score, a threshold or a budget of false alarms, and where to look; what is flagged, found and missed.

    Thresholds flag given shares of the pixels of validation frames, which hold no anomaly. Introduced in
    notebooks/streethazards.ipynb.

    Args:
        root: of StreetHazards or its stand-in; model: for `lib.load`.
        scores: of `lib.apply.streets.SCORES`; some that differ if empty.
    """

    def build() -> Panel:
        from lib.apply import streets  # whose libraries take seconds to import
        from lib.studies.roads import watch
        from lib.studies.roads.alarms import BUDGETS, RATES, Frame
        from lib.studies.roads.experiment import RoadStudy

        run, mine = streets.precise(zoo.load(model), root), []
        study = RoadStudy(root, tuple(run.header["config"]["size"]), device="cpu")
        names = list(scores or streets.offered(run, watch.SCORES))

        def ask(score: str) -> tuple[torch.nn.Module, Score, Statistics]:
            of = streets.seen_by(run, score, root)
            return of.model, streets.SCORES[score], streets.statistics(of, root)

        def draw(score: str, index: int, budget: float, at: int, region: str) -> tuple[Pixels | None, str]:
            i = seen.chosen(score, budget, at, region)
            if i < 0:
                return None, f"No threshold of {score} keeps within {budget:g} false alarms a frame on validation."
            frame = mine[0] if mine else seen.frame(index)
            values = seen.score(frame, score) if mine else seen.map(index, score)
            pictures, told = seen.shown(frame, values, score, i, region)
            return ui.sheet(pictures, 2, 400), told

        def read(source: Any) -> None:
            """A street of the user's; one that cannot be read is said, and nothing changes."""
            if not source:
                return
            with panel.guarded():
                images, _ = zoo.pictures(source)
                size = streets.judged_at(run, tuple(images.shape[-2:]))
                outputs, image = streets.outputs_of(run, images[0], size)
                nothing = torch.zeros(image.shape[-2:], dtype=torch.long)
                mine[:] = [Frame(0, "", image, *outputs, nothing)]
                panel.update()

        def back() -> None:
            mine.clear()
            panel.update()

        def total() -> None:
            with panel.guarded():
                seen.total(controls["score"].value, controls["region"].value)
                panel.update()

        limits = [("by hand", 0.0), *((f"{budget:g} false alarms a frame", budget) for budget in BUDGETS)]
        last, regions = len(RATES) - 1, watch.REGIONS
        controls = {
            "score": ui.choice("score", names, names[0], "higher is more anomalous"),
            "index": ui.number("frame", 0, len(study.split("test")) - 1, 0, "of the held-out split"),
            "budget": ui.choice("threshold", limits, 0.0, "by hand, or the lowest within a budget on validation"),
            "at": ui.number("by hand", 0, last, last // 2, "higher flags more", live=True),
            "region": ui.choice("look at", regions, regions[0], "the part of a frame that counts"),
        }
        own = [ui.upload("your street", "an image file"), ui.text("or its path", "", "of an image")]
        below = [
            ui.button("count all frames", "what score and threshold do on the whole held-out split", total),
            ui.button("held-out frames", "back to these, from a street of your own", back),
        ]
        panel = Panel(draw, controls, own, below)
        seen = watch.Watch(study, run.model, ask, names, panel.each)
        own[0].observe(lambda change: read(ui.uploaded(change["new"])), "value")
        own[1].observe(lambda change: read(change["new"].strip()), "value")
        return panel

    return Explorer("explore.alarms()", "streethazards_thresholds.png", build)


def results(folder: Path = ROOT) -> Explorer:
    """Every row of figures/results: filter, sort and plot them, with what measured them.

    Introduced in notebooks/ex_dino4.ipynb.

    Args:
        folder: whose figures/results; a run's output folder, or the committed ones.
    """

    def build() -> Panel:
        @lru_cache(64)
        def read(name: str) -> tuple[pd.DataFrame, list[str], str]:
            return stored.rows_of(folder / "figures" / "results" / f"{name}.json")

        files = sorted(p.stem for p in (folder / "figures" / "results").glob("*.json"))
        files = [name for name in files if read(name)[1]]  # some keep films alone
        if not files:
            raise zoo.Wrong(f"{folder}/figures/results holds no results; give a folder that lib.run wrote")

        def draw(name: str, words: str, metric: str, order: str) -> tuple[Pixels | None, str]:
            found, _, about = read(name)
            for word in words.split():
                found = found[found.config.str.contains(word, case=False, regex=False)]
            shown = found[found.metric == metric].drop(columns="metric").dropna(subset="value")
            if shown.empty:
                return None, f"No row of {name} has {metric!r} and all of these words: {words}"
            by = {"value, falling": ("value", False), "value, rising": ("value", True), "name": ("config", True)}[order]
            shown = shown.sort_values(by[0], ascending=by[1], kind="stable").reset_index(drop=True)
            named = [(r.config, r.value, 0 if pd.isna(r.seed) else int(r.seed)) for r in shown.itertuples()]
            return ui.bars(named), f"{len(shown)} rows, {about}{ui.table(shown)}"

        def offer(_: Any = None) -> None:
            with panel.guarded():
                known = list(read(controls["name"].value)[1])
                with panel.held():
                    controls["metric"].options = known
                    controls["metric"].value = next((k for k in ("fg_ari", "auroc", "clean") if k in known), known[0])

        first = "ex_dino4" if "ex_dino4" in files else files[0]
        controls = {
            "name": ui.choice("file", files, first, "results of a notebook, or the rows of a sweep"),
            "words": ui.text("filter", "", "words that all must be in a row's name"),
            "metric": ui.choice("measure", read(first)[1], "fg_ari", "what is shown"),
            "order": ui.choice(
                "sort by", ("value, falling", "value, rising", "name"), "value, falling", "order of rows"
            ),
        }
        panel = Panel(draw, controls)
        controls["name"].unobserve(panel.update, "value")  # its measures come first
        controls["name"].observe(offer, "value")
        return panel

    return Explorer("explore.results()", "ex_dino4_bleeding.png", build)


if __name__ == "__main__":  # the film in README; this frame was chosen by its photograph, not by its score
    ui.film(
        alarms(scores=["heat, no spatial"]).open(),
        [{"index": 6, "at": at} for at in range(0, 20, 2)],
        "explore_alarms",
        "A threshold is lowered: frame, flagged pixels, score and anomaly, with precision, recall and false alarms",
    )
