"""Metal against rubber on twins: what a row says, and when two materials count as equal."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from lib.files import DataError
from lib.studies.backbones import twins
from lib.studies.backbones.tables import pack

METAL, RUBBER = [0.9, 0.5, 0.7, 0.2], [0.8, 0.5, 0.4, 0.6]  # two scenes of two objects


def row(backbone="a", seed=0):
    metrics = {"metal": pack(pd.Series(METAL)), "rubber": pack(pd.Series(RUBBER)), "drawn": "mrrm", "scenes": "2 2"}
    return {"params": {"backbone": backbone, "seed": seed}, "metrics": metrics}


def test_an_object_is_compared_with_itself_or_with_others_of_its_scene():
    metrics = row()["metrics"]
    assert twins.gaps(metrics) == pytest.approx([(0.1 + 0.0) / 2, (0.3 - 0.4) / 2])
    assert twins.gaps(metrics, twins=False) == pytest.approx([0.9 - 0.5, 0.2 - 0.4])


@pytest.mark.parametrize("mean", [0.0, 0.03, -0.06])
def test_equivalence_is_two_one_sided_tests(mean):
    """Of scenes alone, without seeds, it is the textbook's; scipy has the one-sided ones."""
    apart = np.random.default_rng(0).normal(mean, 0.1, 40)
    sides = [
        ttest_1samp(apart, -0.05, alternative="greater").pvalue,
        ttest_1samp(apart, 0.05, alternative="less").pvalue,
    ]
    assert twins.equivalence({None: apart}, 0.05) == pytest.approx(max(sides), rel=1e-6)


def test_rows_become_a_table_of_both_comparisons():
    table = twins.compared([row(seed=s) for s in range(3)] + [row("b", s) for s in range(3)])
    assert list(table.index) == ["a, twins", "a, mixed scenes", "b, twins", "b, mixed scenes"]
    assert table.effect["a, twins"] == pytest.approx(0.0) and (table.equivalence > 0.05).all()
    assert twins.compared([]).empty


def test_without_twins_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(twins, "FOLDER", tmp_path)
    with pytest.raises(DataError, match="movi.py twins"):
        twins.load()
