"""Open JupyterLab on copies of the notebooks in runs/explore, so that nothing committed changes: `make lab`.

What stands after the command goes to JupyterLab: `make lab ARGS="--no-browser --port 9000"`. A port that is taken is
passed over for the next.
Its settings are in overrides.json: Markdown is shown rendered, and no news are fetched.
"""

import os
import platform
import sys
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def copy(source: Path, folder: Path) -> None:
    """Copy a notebook or a page. The copy is renewed until the user changes it; else what is new is said, no more.

    It carries this kernel's names, else JupyterLab takes it for modified as soon as it is opened.
    """
    text, above = source.read_text(), os.path.relpath(source.parents[1], folder)
    for link in ("](", 'src="', 'src=\\"'):  # the last is how a notebook's JSON writes it
        text = text.replace(f"{link}../", f"{link}{above}/")
    if source.suffix == ".ipynb":
        notebook = nbformat.reads(text, as_version=4)
        notebook.metadata.kernelspec.display_name = get_kernel_dict()["display_name"]
        notebook.metadata.language_info.version = platform.python_version()
        text = nbformat.writes(notebook) + "\n"
    mine, given = folder / source.name, folder / ".copied" / source.name  # what JupyterLab shows, and what was copied
    known = given.read_text() if given.exists() else ""
    if not mine.exists() or mine.read_text() in (known, text):
        given.parent.mkdir(parents=True, exist_ok=True)
        for path in (mine, given):
            path.write_text(text)
    elif text != known:
        print(f"kept your {os.path.relpath(mine)}; {source.name} has changed since: move yours away to get it")


def main() -> None:
    """Copy all, and become JupyterLab."""
    folder = ROOT / "runs" / "explore" / "notebooks"
    for source in sorted((ROOT / "notebooks").glob("[!.]*.*")):
        copy(source, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", f"--LabApp.app_settings_dir={HERE}"]
    command += [f"--LabApp.default_url=/lab/tree/{folder.relative_to(ROOT).as_posix()}/index.md"]
    os.execv(command[0], [*command, *["--allow-root"] * (os.geteuid() == 0), *sys.argv[1:]])


if __name__ == "__main__":
    main()
