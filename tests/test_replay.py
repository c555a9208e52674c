"""The replay sees what is wrong: of every notebook a measure and a part of its model are changed, and nbval goes red.

A change is made while the module is imported. Its file stays as it is, and with it the stamps of rows and checkpoints,
so nothing is measured or trained anew, and red is what the verdicts say of the committed weights.
"""

import os
import re
import subprocess
import sys

import pytest

from lib import ROOT, run

#: Run by the kernel before the first cell.
STARTUP = """
from importlib.machinery import SourceFileLoader

def changed(loader, name, known=SourceFileLoader.get_code):
    if name != {module!r}:
        return known(loader, name)
    text = loader.get_data(loader.path).decode().replace({old!r}, {new!r})
    return compile(text, loader.path, "exec", dont_inherit=True)

SourceFileLoader.get_code = changed
"""
SLOTS, OBJECTS = "models.slot_attention", "metrics.objects"
#: Notebook, module of `lib`, what stands there, and what a mistake would make of it.
MUTANTS = [
    ("ex_slot1", OBJECTS, "    objects = truth > 0\n", "    objects = truth >= 0\n"),
    ("ex_slot1", "models.pixel_autoencoder", "(logits.float() / temperature)", "logits.float()"),
    ("ex_slot2", OBJECTS, "adjusted_rand_score(truth, predicted)", "adjusted_rand_score(truth, predicted > 0)"),
    ("ex_slot2", SLOTS, ".softmax(dim=1)  # over slots", ".softmax(dim=2)  # over slots"),
    ("ex_slot3", OBJECTS, "    objects = truth > 0\n", "    objects = truth >= 0\n"),
    ("ex_slot3", "models.pixel_autoencoder", "* images).sum(1)", "* images).mean(1)"),
    ("ex_slot4", OBJECTS, "m.flatten(1).double(), dim=1", "m.flatten(1).double(), dim=0"),
    ("ex_slot4", SLOTS, "for _ in range(iterations)", "for _ in range(1)"),
    ("ex_slot5", OBJECTS, "linear_sum_assignment(-cosine)", "linear_sum_assignment(cosine)"),
    ("ex_slot5", SLOTS, "-0.5 / temperature", "-0.5 * temperature"),
    ("ex_dino1", OBJECTS, "float(iou.max(1).mean())", "float(iou.max(0).mean())"),
    ("ex_dino1", SLOTS, ") - pull", ") + pull"),
    ("ex_dino2", OBJECTS, "[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)]", ""),
    ("ex_dino2", "models.token_decoders", "in_frame(places, frames) / 3", "in_frame(places, frames)"),
    ("ex_dino3", "metrics.tracking", "max(lengths) / sum(lengths)", "lengths[-1] / sum(lengths)"),
    ("ex_dino3", "models.video", "self._predict(steps[-1])", "self._predict(steps[0])"),
    ("ex_dino4", OBJECTS, "overlap.sum(0, keepdims=True) - overlap", "overlap.sum(0, keepdims=True)"),
    ("ex_dino4", "masks", "reach * threshold * finite", "0 * finite"),
    ("ex_dino4", "models.video", "slots, self.iterations[1], places", "slots, 1, places"),
    ("ex_comparison", OBJECTS, "linear_sum_assignment(-cosine)", "linear_sum_assignment(cosine)"),
    ("ex_comparison", "studies.comparison", "(~edge) <= width", "(~edge) >= width"),
    ("ex_comparison", "models.dinosaur", "slots, self.attention_temperature, iter", "slots, 1.0, iter"),
    ("ex_comparison", "models.pixel_autoencoder", 'indexing="xy"', 'indexing="ij"'),
    ("backbone_comparison", "studies.backbones.materials", "iou[row].max(), recall", "iou[row].mean(), recall"),
    ("backbone_comparison", "masks", "masks = masks.flatten(2)", "masks = masks.flatten(2).square()"),
    ("backbone_comparison", SLOTS, "clamp(NARROWEST, WIDEST)", "clamp(NARROWEST, WIDEST / 4)"),
    ("streethazards", "metrics.segmentation", "union = true + matrix.sum(0) - hits", "union = true + matrix.sum(0)"),
    ("streethazards", "metrics.anomaly", "below = n - np.cumsum", "below = np.cumsum"),
    ("streethazards", "models.segmenters", "(padded - self.mean) / self.std", "(padded - self.mean)"),
]
#: The quickest, a metric and a model; all others are slow together: `make mutants`.
QUICK = {("ex_slot5", OBJECTS), ("ex_dino1", SLOTS)}


def marked(notebook, module, old, new):
    marks = () if (notebook, module) in QUICK else pytest.mark.slow
    return pytest.param(notebook, f"lib.{module}", old, new, marks=marks, id=f"{notebook}-{module}-{new.strip()}")


@pytest.mark.parametrize(("notebook", "module", "old", "new"), [marked(*mutant) for mutant in MUTANTS])
def test_the_replay_of_a_changed_workbook_is_red(notebook, module, old, new, tmp_path):
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert source.count(old) == 1, f"{module} reads otherwise by now; choose another mistake"
    compile(source.replace(old, new), module, "exec")
    startup = tmp_path / "profile_default" / "startup" / "mutant.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP.format(module=module, old=old, new=new))
    own = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path), "SLOTS_OUT": str(tmp_path), "TQDM_DISABLE": "1"}
    nbval = "-m pytest -q --nbval-lax --nbval-cell-timeout=120 --nbval-kernel-startup-timeout=120 -p no:cacheprovider"
    command = [sys.executable, *nbval.split(), f"notebooks/{notebook}.ipynb"]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)
    said = re.findall(r".*(?:REGRESSION|NO LONGER HOLDS).*", run.stdout)
    assert run.returncode == 1 and said and "Timeout of" not in run.stdout, run.stdout + run.stderr


#: Run by the kernel before the first cell: the first row of every sweep that has more than one fails.
FAILS = """
from lib import sweeps

def failing(*args, known=sweeps.run, **options):
    rows = known(*args, **options)
    failed = {k: v for k, v in rows[0].items() if k != "seconds"} | {"metrics": {}, "error": "RuntimeError: injected"}
    return [failed, *rows[1:]] if len(rows) > 1 else rows

sweeps.run = failing
"""
#: With a few steps and two seeds; the others are run by `make mutants`.
SLOW = ("ex_dino4", "ex_comparison", "backbone_comparison", "streethazards")


@pytest.mark.parametrize("notebook", ["ex_slot1", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_notebook_goes_on_without_its_first_row(notebook, tmp_path):
    startup = tmp_path / "profile_default" / "startup" / "fails.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(FAILS)
    own = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)}
    command = [sys.executable, "-m", "lib.run", notebook, "--profile", "smoke", "-p", "seeds", "[0, 1]"]
    command += ["--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    written = {path.name for path in (tmp_path / "out" / "figures" / "results").iterdir()}
    assert f"{notebook}.json" in written and any(name.startswith("sweep_") for name in written)


def test_every_notebook_has_a_wrong_measure_and_a_wrong_model():
    assert all(sum(notebook == name for notebook, *_ in MUTANTS) >= 2 for name in run.series())
