"""Pages to read without Jupyter: what a run measured beside what is committed, and the series as a static site.

`python -m lib.run` writes the first, `index.html`, into its folder; `python -m lib.site` renders the second from the
committed notebooks, without running anything.
"""

import argparse
import json
import os
import re
import shutil
import sys
from html import escape
from pathlib import Path
from typing import Any

import nbformat

from lib import ROOT, files

STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px } th, td { padding: .2rem .6rem; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } tr { border-bottom: 1px solid #ddd }
img { max-width: 100% } .anchor-link { display: none }
.far { background: #fde0c5 } pre { background: #f5f5f5; padding: .5rem; overflow: auto }"""
#: Pages beside the notebooks.
PAGES = ("README.md", "CONTRIBUTING.md", "log.md", "data/README.md", "figures/benchmarks.md", "notebooks/index.md",
         "notebooks/glossary.md")  # fmt: skip
FAR = 0.005  # a mean further than this from the committed one is marked


def page(title: str, body: str) -> str:
    """A whole HTML page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n'


def overview(out: Path, rows: list[dict[str, Any]], about: str) -> None:
    """Write `out/index.html`: of every notebook what it took, its figures, and its numbers beside the committed ones.

    Args:
        rows: of `lib.run`: notebook, status, seconds, memory (bytes, None where nobody looked), says, and question.
        about: the profile.
    """
    head = "<tr><th>notebook</th><th>status</th><th>minutes</th><th>peak memory, GB</th><th>it puts forward</th></tr>"
    lines, sections = [], []
    for row in rows:
        name = row["notebook"]
        memory = f"{row['memory'] / 1e9:.1f}" if row.get("memory") else "-"
        cells = [f'<td><a href="#{name}">{name}</a></td><td>{escape(row["status"])}</td>']
        cells += [f'<td class="n">{row["seconds"] / 60:.1f}</td><td class="n">{memory}</td>']
        lines.append(f"<tr>{''.join(cells)}<td>{escape(row['says'])}</td></tr>")
        sections.append(_section(out, name, row.get("question", "")))
    intro = f"<h1>Results</h1><p>{escape(about)}. Means over runs; shaded: over {FAR} from the committed one.</p>"
    body = f"{intro}<table>{head}{''.join(lines)}</table>{''.join(sections)}"
    files.write(out / "index.html", page("Results", body))


def _section(out: Path, name: str, question: str) -> str:
    """A notebook's question, figures, and numbers."""
    notebook = out / "notebooks" / f"{name}.ipynb"
    parts = [f'<h2 id="{name}">{name}</h2><p>{escape(question)}</p>']
    if notebook.exists():
        parts.append(f'<p><a href="notebooks/{name}.ipynb">the notebook as it ran</a></p>')
        for figure in figures_of(notebook):
            if (out / "figures" / f"{figure}.png").exists():
                parts.append(f'<p><img loading="lazy" src="figures/{figure}.png" alt="{figure}"></p>')
    return "".join([*parts, _numbers(out, name)])


def figures_of(notebook: Path) -> list[str]:
    """Names of the figures that a notebook saves, in order."""
    cells = nbformat.read(notebook, as_version=4).cells
    return list(dict.fromkeys(name for c in cells if c.cell_type == "code" for name in _saved(c.source)))


def _saved(source: str) -> list[str]:
    return re.findall(r'plots\.save\(.*?"(\w+)"\)', source)


def _numbers(out: Path, name: str) -> str:
    """The table of a notebook's numbers, folded; nothing where it wrote none."""
    now, kept = (_summary(folder / "figures" / "results" / f"{name}.json") for folder in (out, ROOT))
    if not now:
        return ""
    lines = []
    for config, metrics in now.items():
        for metric, value in metrics.items():
            before = kept.get(config, {}).get(metric)
            far = bool(before) and _far(value["mean"], before["mean"])
            texts = [_text(value), _text(before) if before else "-"]
            numbers = "".join(f'<td class="n">{text}</td>' for text in texts)
            lines.append(f"<tr{' class=far' * far}><td>{escape(config)}</td><td>{escape(metric)}</td>{numbers}</tr>")
    head = "<tr><th>configuration</th><th>measure</th><th>this run</th><th>committed</th></tr>"
    return f"<details><summary>{len(lines)} numbers</summary><table>{head}{''.join(lines)}</table></details>"


def _far(now: float | None, before: float | None) -> bool:
    """Whether two means differ; None stands for NaN in JSON."""
    return now != before and (now is None or before is None or not abs(now - before) <= FAR)


def _summary(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    try:
        return json.loads(path.read_text())["summary"]
    except (OSError, ValueError, KeyError, TypeError):  # none was written, or not whole: the table says who failed
        return {}


def _text(value: dict[str, float]) -> str:
    mean, sd = value["mean"], value.get("sd")
    mean = float("nan") if mean is None else mean
    return f"{mean:.4g}" + ("" if sd is None else f" ± {sd:.2g}")


def build(out: Path) -> list[Path]:
    """Render the committed notebooks and pages to HTML in `out`, with their figures and links between them.

    Returns:
        What was written, the pages.
    """
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown import markdown2html

    exporter, written = HTMLExporter(), []
    for source in [*sorted((ROOT / "notebooks").glob("*.ipynb")), *(ROOT / name for name in PAGES)]:
        target = out / source.relative_to(ROOT).with_suffix(".html")
        if source.suffix == ".ipynb":
            notebook = nbformat.read(source, as_version=4)
            for cell in (c for c in notebook.cells if c.cell_type == "code"):
                for output in (o for o in cell.outputs if "image/png" in o.get("data", {})):
                    said = output.metadata.setdefault("image/png", {})
                    said.setdefault("alt", ", ".join(_saved(cell.source)) or "figure")
            text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": source.stem}})
        else:
            text = source.read_text()
            title = re.search(r"^# (.+)", text, re.M)
            text = page(title[1] if title else source.stem, markdown2html(text))
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, linked(text, source, out))
        written.append(target)
    shutil.copytree(ROOT / "figures", out / "figures", dirs_exist_ok=True)
    start = '<meta http-equiv="refresh" content="0; url=README.html">'
    files.write(out / "index.html", page("Slots and streets", f'{start}<a href="README.html">README</a>'))
    return written


def linked(text: str, source: Path, out: Path) -> str:
    """HTML whose links to rendered pages lead there, and those to other files of the project to the project."""

    def other(match: re.Match) -> str:
        address, mark, anchor = match[2].partition("#")
        if not address or "://" in address or address.startswith(("data:", "mailto:")):
            return match[0]
        path = (source.parent / address).resolve()
        if not path.is_relative_to(ROOT):
            return match[0]
        inside = path.relative_to(ROOT)
        rendered = path.suffix == ".ipynb" or inside.as_posix() in PAGES
        if rendered:
            address = str(Path(address).with_suffix(".html"))
        elif inside.parts[:1] != ("figures",):  # code and data stay where they are
            address = os.path.relpath(path, (out / source.relative_to(ROOT)).parent)
        return f'{match[1]}="{address}{mark}{anchor}"'

    return re.sub(r'(href|src)="([^"]*)"', other, text)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.site", description="Render the series as static HTML.")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "site", help="a folder (default: runs/site)")
    out = parser.parse_args(arguments).out.resolve()
    print(f"{len(build(out))} pages, begin with {os.path.relpath(out / 'index.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
