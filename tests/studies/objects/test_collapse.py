"""Configurations that differ in one setting, and what differs between tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.models.dinosaur import Dinosaur
from lib.studies.objects import collapse

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


@given(st.floats(0, 1))
def test_spread_is_the_share_that_differs_between_tokens(mix):
    """Inputs c + d with d = +-1 and a constant c: the share is 1 / (c² + 1), whatever the number of tokens."""
    constant = 3 * mix
    tokens = torch.tensor([1.0, -1.0]).repeat(1, 8)[..., None] + constant

    class Straight:
        encode = staticmethod(lambda x: x)

    assert collapse.spread(Straight, tokens) == pytest.approx(1 / (1 + constant**2), rel=1e-5)
