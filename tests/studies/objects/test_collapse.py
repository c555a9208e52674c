"""Configurations that differ in one setting, and what differs between tokens."""

import nbformat
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import run
from lib.models.dinosaur import ORIGINAL, Dinosaur
from lib.studies.objects import collapse


def cell() -> dict:
    """The configurations as ex_dino2 writes them down: what its cell defines."""
    notebook = nbformat.read(run.NOTEBOOKS / "ex_dino2.ipynb", as_version=4)
    (source,) = (c.source for c in notebook.cells if c.cell_type == "code" and "SINGLE = {" in c.source)
    found = {"ORIGINAL": ORIGINAL, "steps": 1000, "lr": 4e-4}
    exec(source, found)
    return found


CELL = cell()
CONFIGS, ANCHORS = CELL["known"], CELL["anchors"]


def flat(config):
    return {k: v for k, v in config.items() if k != "model"} | {f"model {k}": v for k, v in config["model"].items()}


def test_each_configuration_changes_only_what_its_name_says():
    for name, base in ANCHORS.items():
        changes = CELL["SINGLE"].get(name) or CELL["WITHOUT"].get(name.removeprefix("ours, "))
        if changes is None:  # the other anchor
            continue
        one, two = flat(CONFIGS[name]), flat(CONFIGS[base])
        differs = {k.removeprefix("model ") for k in one.keys() | two.keys() if one.get(k, "-") != two.get(k, "-")}
        assert differs == set(changes), name


def test_every_configuration_is_a_model_and_is_compared_once():
    for name, config in CONFIGS.items():
        Dinosaur(4, **config["model"]), name
    assert sorted([*ANCHORS, "original"]) == sorted(CONFIGS) and {*ANCHORS.values()} <= {*CONFIGS}


@given(st.floats(0, 1))
def test_spread_is_the_share_that_differs_between_tokens(mix):
    """Inputs c + d with d = +-1 and a constant c: the share is 1 / (c² + 1), whatever the number of tokens."""
    constant = 3 * mix
    tokens = torch.tensor([1.0, -1.0]).repeat(1, 8)[..., None] + constant

    class Straight:
        encode = staticmethod(lambda x: x)

    assert collapse.spread(Straight, tokens) == pytest.approx(1 / (1 + constant**2), rel=1e-5)
