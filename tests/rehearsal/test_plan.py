"""What a plan counts is what a run trains: notebooks of four studies, as `smoke`, each once planned and once run."""

import json
import os
import subprocess
import sys

import pytest

from lib import ROOT, run

#: A notebook's code as a program that counts its trainings; a kernel would not start sooner.
PROGRAM = """
import json, os, sys
import nbformat
from lib import run, training

name, values = sys.argv[1], json.loads(sys.argv[2])
steps = []

def fit(model, loss, recipe, *args, known=training.fit, **options):
    steps.extend([recipe.steps] * bool(recipe.steps))
    return known(model, loss, recipe, *args, **options)

training.fit = fit  # before a study takes it
cells = [c for c in nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells if c.cell_type == "code"]
given = "\\n".join(f"{k} = {v!r}" for k, v in values.items())
file = os.path.join(os.environ["SLOTS_OUT"], f"{name}.py")
with open(file, "w") as code:
    for cell in cells:
        code.write(f"{cell.source}\\n{given if 'parameters' in cell.metadata.get('tags', []) else ''}\\n")
os.chdir(run.NOTEBOOKS)
exec(compile(open(file).read(), file, "exec"), {"__name__": "__main__", "display": print})
print(json.dumps(steps))
"""


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name", ["ex_slot3", *map(slow, ["ex_dino2", "ex_dino3", "backbone_comparison", "streethazards"])]
)
def test_a_plan_counts_the_trainings_and_steps_of_a_run(name, tmp_path):
    values = run.plan([name], "smoke", {})[name]
    planned = run.foreseen({name: values}, tmp_path, full=False)
    assert not planned["wrong"] and not list(tmp_path.iterdir())
    own = {"PYTHONPATH": str(ROOT), "SLOTS_OUT": str(tmp_path), "MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", PROGRAM, name, json.dumps(values)]
    trained = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    assert sorted(planned["trainings"][name]) == sorted(json.loads(trained.stdout.splitlines()[-1]))
    again = run.foreseen({name: values}, tmp_path, full=False)
    assert again["trainings"][name] == [], "all is there"
