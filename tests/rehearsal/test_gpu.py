"""Every training on a pretend accelerator: nothing of the host meets the device, and the host waits no oftener.

The table of waits is WAITS; `python tests/rehearsal/accelerator.py` prints it, with the lines.
"""

import json
import subprocess
import sys

from lib import ROOT

OBJECTIVES = ("dino", "ibot", "clip")

#: Training: how often a step makes the host wait for the device, at most; between two rows of the history, so that
#: with them it is once every `training.LOG_EVERY` steps.
WAITS = dict.fromkeys(
    (
        "slots on tokens",
        "slots on tokens, the original's losses",
        "tracking",
        "pixels",
        "dino",
        "ibot",
        "clip",
        "roads",
    ),
    0,
)

CASES = {
    "x + torch.ones(3)": "Moved('add: [(3,)] of the host meets [(3,)] of acc:0",
    "torch.ones(3)[x > 0]": "Moved('a tensor of the host is indexed",
    "x.numpy()": "Error(",
    "x.add_(1).sum().item(); x.cpu(); bool((x > 0).all())": "'local_scalar_dense elsewhere': 2",
    "x + 1; x * torch.tensor(2.0); torch.zeros(3, device='acc').copy_(x); x[:2]; x.sum()": "{}",
    "x[x > 1]; x.nonzero()": "{'boolean index elsewhere': 1, 'nonzero elsewhere': 1}",
    "x.to('cpu')": "{'to the host elsewhere': 1}",
}
CODE = f"""
import sys, torch
sys.path.insert(0, {str(ROOT / "tests" / "rehearsal")!r})
import accelerator as a
a.Pretend().__enter__()
x = torch.ones(3).to("acc")
for code in {list(CASES)}:
    a.waits.clear()
    try:
        exec(code)
        print(dict(+a.waits))
    except Exception as error:
        print(repr(error).replace(chr(10), " "))
"""


def test_the_pretend_device_raises_and_counts():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=True)
    for (code, said), line in zip(CASES.items(), run.stdout.splitlines(), strict=True):
        assert said in line, (code, line)


def test_trainings_keep_to_the_device_and_wait_no_oftener():
    command = [sys.executable, str(ROOT / "tests" / "rehearsal" / "accelerator.py")]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    found = json.loads(out[out.index("\n{") if not out.startswith("{") else 0 :])
    assert not {k: v["error"] for k, v in found.items() if "error" in v}
    assert found.keys() == WAITS.keys()
    worse = {k: v for k, v in found.items() if v["waits"] > WAITS[k]}
    assert not worse, json.dumps(worse, indent=1)
