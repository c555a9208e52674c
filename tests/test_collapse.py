"""Configurations that differ in one setting, and effect sizes against worked examples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import collapse
from lib.models.dinosaur import Dinosaur

CONFIGS = collapse.configurations(300, 1000)


def flat(config):
    return {k: v for k, v in config.items() if k != "model"} | {f"model {k}": v for k, v in config["model"].items()}


def test_each_configuration_changes_only_what_its_name_says():
    for name, base in collapse.pairs(list(CONFIGS)):
        changes = collapse.SINGLE.get(name.removesuffix(", long"))
        changes = changes or collapse.WITHOUT.get(name.removeprefix("ours, long, "))
        if changes is None:  # the other anchor, or more steps
            continue
        one, two = flat(CONFIGS[name]), flat(CONFIGS[base])
        differs = {k.removeprefix("model ") for k in one.keys() | two.keys() if one.get(k, "-") != two.get(k, "-")}
        assert differs == set(changes), name


def test_every_configuration_is_a_model_and_is_compared_once():
    for name, config in CONFIGS.items():
        Dinosaur(4, **config["model"]), name
    compared = [name for name, _ in collapse.pairs(list(CONFIGS))]
    assert sorted([*compared, "original", "ours, long"]) == sorted(CONFIGS)
    assert collapse.pairs(["ours", "init learned"]) == []  # no anchor


def test_effect_of_a_worked_example():
    """Means 2 and 5, both variances 1: d = -3, J = 1 - 3 / 15 = 0.8; half the interval is t(0.975, 4) sqrt(2 / 3)."""
    found = collapse.effect([1, 2, 3], [4, 5, 6])
    assert found["difference"] == -3 and found["g"] == pytest.approx(-2.4)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(2.776445 * np.sqrt(2 / 3), rel=1e-5)


def test_effect_of_single_runs_has_no_interval():
    found = collapse.effect([0.5], [0.25])
    assert found["difference"] == 0.25 and np.isnan([found["low"], found["high"], found["g"]]).all()


@given(st.floats(0, 1))
def test_spread_is_the_share_that_differs_between_tokens(mix):
    """Inputs c + d with d = +-1 and a constant c: the share is 1 / (c² + 1), whatever the number of tokens."""
    constant = 3 * mix
    tokens = torch.tensor([1.0, -1.0]).repeat(1, 8)[..., None] + constant

    class Straight:
        encode = staticmethod(lambda x: x)

    assert collapse.spread(Straight, tokens) == pytest.approx(1 / (1 + constant**2), rel=1e-5)
