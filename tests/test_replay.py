"""The replay notices a wrong metric: one sign changed in `metrics.objects`, and nbval goes red."""

import os
import shutil
import subprocess
import sys

import pytest

from lib import ROOT


def replay(house):
    """Replay ex_slot5 in a copy of the workbook."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval-lax",
        "--nbval-cell-timeout=120",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "PYTHONPATH": str(house), "TQDM_DISABLE": "1"}
    environment.pop("SLOTS_OUT", None)
    run = subprocess.run(
        [*command, "notebooks/ex_slot5.ipynb"], cwd=house, env=environment, capture_output=True, text=True
    )
    return run.returncode, run.stdout


@pytest.fixture
def house(tmp_path):
    shutil.copytree(ROOT / "lib", tmp_path / "lib")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("checkpoints", "figures", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_a_changed_sign_in_a_metric_turns_the_replay_red(house):
    source = house / "lib" / "metrics" / "objects.py"
    text = source.read_text()
    assert text.count("linear_sum_assignment(-cosine)") == 1
    source.write_text(text.replace("linear_sum_assignment(-cosine)", "linear_sum_assignment(cosine)"))
    status, output = replay(house)
    assert status == 1 and "REGRESSION" in output and "CellTimeout" not in output, output
