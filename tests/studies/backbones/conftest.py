"""Scenes of the stand-in and their objects, for the tests of materials and of silhouettes."""

import pytest

from lib import ROOT
from lib.data.movi import MoviDataset
from lib.studies.backbones import materials


@pytest.fixture(scope="package")
def frames():
    """The first and the last."""
    return slice(None, None, 23)


@pytest.fixture(scope="package")
def scenes(frames):
    data = MoviDataset(ROOT / "data" / "movi_a", "validation", fields=materials.FIELDS, frames=frames)
    return data[:6]


@pytest.fixture(scope="package")
def table(scenes, frames):
    return materials.objects_of(scenes, frames)
