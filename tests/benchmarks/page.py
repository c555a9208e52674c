"""From what pytest-benchmark kept to figures/benchmarks.json, the page beside it and its two plots: `make bench`.

Every number of the page comes from that JSON: `page(document)` is a function of it alone.
"""

import ast
import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import yaml

from lib import ROOT, files, plots, results, run

HEAD = """# Speed, measured beside the peers

Made by `make bench`; `figures/benchmarks.json` holds the same numbers. **fast** says how many times as fast each is as
the first of its table, measured in turns within one run; **cost** the same of the time that it takes. Medians over
rounds, quartiles in brackets. No absolute time is a claim, and another machine may give other ratios.
"""


def condense(raw, out):
    """What is kept of pytest-benchmark's JSON: the class of the machine, versions, and the ratios of each benchmark."""
    blocks = [each["extra_info"] for each in raw["benchmarks"] if "case" in each["extra_info"]]
    paper = json.loads((ROOT / "figures" / "results" / "plan_paper.json").read_text())
    objects = [name for name in paper["steps"] if not name.startswith("ex_slot")]
    seeds = ast.literal_eval(run.parameters("streethazards")["main_seeds"]["default"])
    given = yaml.safe_load((ROOT / "notebooks" / "params" / "paper.yaml").read_text())
    roads = {"main_seeds": seeds, **given["streethazards"]}
    return {
        "machine": raw["machine_info"],
        "blocks": blocks,
        "plan": {
            "steps": sum(paper["steps"][name] for name in objects),
            "trainings": sum(paper["trainings"][name] for name in objects),
            "frames": 9703 * 24,  # training scenes of MOVi-A and their frames
            "road": {key: roads[key] for key in ("main_steps", "road_batch", "main_crop")}
            | {"models": len(roads["main_seeds"])},
        },
        "notebooks": shares(out / "runs" / "default" / "index.html"),
    }


def shares(index):
    """The share of each notebook in the minutes of a run, from its page; empty where there was no run."""
    rows = re.findall(
        r'#(\w+)">\w+</a></td><td>ok</td><td class="n">([\d.]+)', index.read_text() if index.exists() else ""
    )
    total = sum(float(minutes) for _, minutes in rows)
    return {name: round(float(minutes) / total, 3) for name, minutes in rows} if total else {}


def said(three):
    low, median, high = three
    return f"{median:,.3g} [{low:,.3g}, {high:,.3g}]"


def page(document):
    """The page in Markdown."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    about = f"{machine['processor']}, threads of torch: {machine['threads']}, {machine['system']} {machine['machine']}"
    parts = [f"{HEAD}\n{about}; Python {machine['python_version']}, {versions}; revision {machine['revision']}.\n"]
    parts.append("![Ratios of Slot Attention and training](benchmarks_speed.png)")
    parts.append("![Cost against size, and fitted powers](benchmarks_scaling.png)")
    section = text = None
    for block in document["blocks"]:
        if block["section"] != section:
            section = block["section"]
            parts.append(f"\n## {section}\n\n{block['about']}")
        if block["text"] != text:
            text = block["text"]
            parts.append(f"\n{text}")
        column = "fast" if "fast" in block else "cost"
        rows = [f"| {name} | {said(three)} |" for name, three in block[column].items()]
        parts.append(
            "\n" + "\n".join([f"| {block['case']} | {column}; rounds: {block['rounds']} |", "|---|---|", *rows])
        )
        if column == "cost":
            parts.append(f"\nThe cost grows with {block['unit']} to the power of {said(block['exponent'])}.")
        parts += ["", *(f"- {name}: {value:,.3g}" for name, value in block["facts"].items())]
    parts.append(f"\n## At full size\n\n{full_size(document)}")
    parts.append("\n## The series\n")
    if found := document["notebooks"]:
        listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in sorted(found.items(), key=lambda x: -x[1]))
        parts.append(f"Shares of the time of `make results`: {listed}.")
    else:
        parts.append("Not measured: `make results` had not been run in this folder.")
    return "\n".join(parts) + "\n"


def full_size(document):
    """What MOVi-A at 448 px and StreetHazards would cost, in trainings of the stand-in's model."""
    blocks = {block["case"]: block for block in document["blocks"]}
    try:
        cost = {name: 1 / three[1] for name, three in blocks["full size"]["fast"].items()}
        unit = blocks["32 x 32 tokens"]["facts"]["steps of the committed training of ex_dino4 in all"]
        power = blocks["segmenter, a step"]["exponent"][1]
    except KeyError:
        return "Not measured."
    plan, road = document["plan"], document["plan"]["road"]
    larger = road["main_crop"][0] * road["main_crop"][1] / (384 * 640)
    size = f"{road['main_crop'][1]} x {road['main_crop'][0]} px"
    tokens, steps = plan["frames"] * cost["frame"] / unit, plan["steps"] * cost["paper step"] / unit
    model = road["main_steps"] * road["road_batch"] / 2 * cost["road step"] * larger**power / unit
    rows = {
        f"tokens of all {plan['frames']:,} training frames of MOVi-A at 448 px, once, by one process": (tokens, 1),
        f"{plan['trainings']:,} trainings on MOVi-A, {plan['steps']:,} steps, each taken for one of 64 images": (
            steps,
            8,
        ),
        f"{road['models']} road models on all of StreetHazards, {road['main_steps']:,} steps of {road['road_batch']} "
        f"windows of {size} each, a GPU a model": (model * road["models"], road["models"]),
    }
    total = [sum(units for units, _ in rows.values()), sum(units / min(share, 8) for units, share in rows.values())]
    lines = [f"| {what} | {units:,.0f} | {units / min(share, 8):,.0f} |" for what, (units, share) in rows.items()]
    return "\n".join(
        [
            f"Extrapolated from the ratios above, in units of one training: that of ex_dino4, {unit:,.0f} steps on the "
            "stand-in. Steps and trainings are those that [`paper` plans](results/plan_paper.json) for the object "
            "studies; a road model grows by the fitted power of pixels. On eight GPUs (`--workers 8`) trainings share "
            "the devices, one each; that they lose nothing by it is assumed. Hours are these units times the hours of "
            "such a training on the GPU at hand, as far as its ratios are those of this machine; `--plan` there says "
            "them measured.",
            "",
            "| what | units, one GPU | eight GPUs |",
            "|---|---|---|",
            *lines,
            f"| these together | {total[0]:,.0f} | {total[1]:,.0f} |",
        ]
    )


def draw(document):
    """Two plots: ratios of the first section, and costs against sizes."""
    blocks = [b for b in document["blocks"] if "fast" in b and b["section"] == "Slot Attention and training"]
    size = (7, 0.6 + 0.24 * sum(len(b["fast"]) + 1 for b in blocks))
    ratios = [len(b["fast"]) for b in blocks] or [1]
    figure, axes = plt.subplots(len(ratios), 1, figsize=size, layout="constrained", squeeze=False, height_ratios=ratios)
    for axis, block in zip(axes[:, 0], blocks, strict=False):
        for y, (name, (low, median, high)) in enumerate(block["fast"].items()):
            colour = plots.SLOTS[0 if name.startswith("ours") else 9]
            axis.barh(y, median, color=colour)
            axis.plot([low, high], [y, y], color="black", linewidth=1)
        axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(yticks=range(len(block["fast"])), yticklabels=block["fast"], xlim=(0, None))
        axis.invert_yaxis()
        axis.set_title(f"{block['case']}: times as fast as the first", fontsize=9)
        axis.tick_params(labelsize=8)
    plots.save(figure, "benchmarks_speed")
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for i, block in enumerate(b for b in document["blocks"] if "cost" in b):
        first, power = block["sizes"][0], block["exponent"][1]
        label = f"{block['case']}: power {power:.2f}"
        relative = [size / first for size in block["sizes"]]
        axis.plot(relative, [three[1] for three in block["cost"].values()], "o-", color=plots.SLOTS[i], label=label)
    axis.set(xscale="log", yscale="log", xlabel="size / the smallest", ylabel="time / that of the smallest")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    plots.save(figure, "benchmarks_scaling")


if __name__ == "__main__":
    document = condense(json.loads(Path(sys.argv[1]).read_text()), results.out())
    files.write(results.out() / "figures" / "benchmarks.json", document)
    files.write(results.out() / "figures" / "benchmarks.md", page(document))
    draw(document)
