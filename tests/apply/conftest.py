"""What the tests of lib.apply share."""

import warnings

import numpy as np
import pytest

import lib


@pytest.fixture(autouse=True)
def quiet():
    """Committed models may be of other code for a while."""
    with warnings.catch_warnings(action="ignore"):
        yield


@pytest.fixture
def small(tiny):
    """An untrained model of colours: fast, and none of a notebook's."""
    return lambda **arguments: lib.load(tiny("small", **arguments), "cpu")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
