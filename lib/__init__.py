"""The thin library behind the notebooks: `import lib`, then `lib.data`, `lib.models`, `lib.metrics` and the rest.

Introduced in notebooks/ex_slot1.ipynb. Submodules are imported where they are used, so that a notebook about shapes
never pays for a renderer, a downloader or a backbone.
"""

from pathlib import Path

#: The root of the workbook. Everything is found from here, so the working directory never matters.
ROOT = Path(__file__).resolve().parent.parent
