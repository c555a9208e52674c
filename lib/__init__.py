"""The thin library behind the notebooks: `import lib`, then `lib.data`, `lib.models`, `lib.metrics` and the rest.

Introduced in notebooks/ex_slot1.ipynb. Submodules are imported where they are used, so that a notebook about shapes
never pays for a renderer, a downloader or a backbone.
"""

from pathlib import Path

#: The root of the workbook. Everything is found from here, so the working directory never matters.
ROOT = Path(__file__).resolve().parent.parent


def __getattr__(name: str):
    """`lib.load`, `lib.masks_of` and `lib.anomaly_of`, for your own data; fetched when they are asked for."""
    homes = {"load": "zoo", "masks_of": "scenes", "anomaly_of": "streets"}
    if name not in homes:
        raise AttributeError(f"module 'lib' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lib.apply.{homes[name]}"), name)
