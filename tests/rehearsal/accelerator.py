"""A pretend accelerator: tensors "on acc:0" lie in memory, meeting one of the CPU raises as on CUDA, waits are counted.

    python tests/rehearsal/accelerator.py    # JSON: of each training, what a step makes the host wait for, and where

A wait is whatever needs a value on the host: `.item()`, `float()`, `bool()`, `.cpu()`, boolean indexing, `nonzero`,
`unique`, `equal`. A tensor of the pretend device has no memory that numpy could read: `.numpy()` raises, and nothing
moves to the CPU unless somebody says `.cpu()` or `.to("cpu")`, which is counted with its line.

What it cannot see: kernels that CUDA lacks or rounds otherwise, out-of-memory, races of streams, `pin_memory` and
`non_blocking` (copies to the device are counted apart, and block or not as their caller says), autocast (half precision
is not rehearsed here), waits inside of a kernel's host code such as cuDNN's choice of an algorithm, CPU scalars of no
dimensions (CUDA takes them too), and backward passes of the fused GRU, which are written out below.

It patches torch for the whole process, so that tests run it in a process of its own.
"""

import collections
import json
import os
import sys
import tempfile
import traceback

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from trainings import STEPS, Enough, trainings

_setup_privateuseone_for_python_backend("acc")
DEVICE = torch.device("acc:0")
WAITS = {"nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal", "_local_scalar_dense"}
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
#: (what, where) since the last step began.
waits: collections.Counter = collections.Counter()
copies: collections.Counter = collections.Counter()


class Moved(RuntimeError):
    """Tensors of the host and of the device meet."""


def where() -> str:
    """The line of lib, of a notebook or of a test that is at work."""
    for frame in reversed(traceback.extract_stack()):
        if f"{os.sep}lib{os.sep}" in frame.filename and "site-packages" not in frame.filename:
            if not frame.filename.startswith(sys.base_prefix):
                return f"{frame.filename.rsplit(f'{os.sep}lib{os.sep}', 1)[-1]}: {frame.line}"
    return "elsewhere"


class OnDevice(torch.Tensor):
    """A tensor that says it is on `DEVICE`; `raw` is what it holds."""

    @staticmethod
    def __new__(cls, raw, requires_grad=False):
        kind = {"dtype": raw.dtype, "layout": raw.layout, "device": DEVICE, "requires_grad": requires_grad}
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), **kind
        )
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def __repr__(self):
        return f"OnDevice({self.raw.shape})"


class Pretend(TorchDispatchMode):
    """Within, factories and copies may be asked for `DEVICE`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def unwrap(x):
    return x.raw if isinstance(x, OnDevice) else x


def wrap(x):
    return OnDevice(x) if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice) else x


def on(device, kind: str) -> bool:
    return device is not None and torch.device(device).type == kind


def dispatch(func, args, kwargs):
    """Run an operation on what the tensors hold, if they may meet."""
    leaves = tree_leaves((args, kwargs))
    ours = [t for t in leaves if isinstance(t, OnDevice)]
    hosts = [t for t in leaves if isinstance(t, torch.Tensor) and not isinstance(t, OnDevice)]
    name, asked = func._schema.name.split("::")[1], kwargs.get("device")
    if name == "_to_copy":
        return moved(func, args[0], kwargs)
    if not ours and not on(asked, "acc"):
        return func(*args, **kwargs)
    if name == "copy_":
        (copies if isinstance(args[0], OnDevice) else waits)[f"copy_ {where()}"] += bool(hosts)
        unwrap(args[0]).copy_(unwrap(args[1]))
        return args[0]
    if name in INDEX:
        if not isinstance(args[0], OnDevice):
            raise Moved(f"a tensor of the host is indexed by one of the device at {where()}")
        for i in args[1]:
            waits[f"boolean index {where()}"] += i is not None and i.dtype in (torch.bool, torch.uint8)
            copies[f"index {where()}"] += i is not None and not isinstance(i, OnDevice)
        hosts = [t for t in hosts if t.ndim and not any(t is i for i in args[1])]
    if wrong := [tuple(t.shape) for t in hosts if t.ndim]:
        raise Moved(f"{name}: {wrong} of the host meets {[tuple(t.shape) for t in ours][:3]} of {DEVICE} at {where()}")
    repeated = name == "repeat_interleave" and "Tensor" in func._overloadname
    waits[f"{name.strip('_')} {where()}"] += name in WAITS or repeated
    args, kwargs, given, named = tree_map(unwrap, args), tree_map(unwrap, kwargs), args, kwargs
    if name.startswith("_thnn_fused_gru_cell"):  # PyTorch has it for CUDA alone
        return tree_map(wrap, (gru_back if name.endswith("backward") else gru)(*args, **kwargs))
    if asked is not None:
        kwargs["device"] = torch.device("cpu")
    kwargs = {k: v for k, v in kwargs.items() if k != "pin_memory"}
    found = func(*args, **kwargs)
    if name == "_local_scalar_dense" or not func._schema.is_mutable:
        return found if name == "_local_scalar_dense" else tree_map(wrap, found)
    back = []  # of an operation in place: what it was given
    for due, value in zip(func._schema.returns, found if isinstance(found, tuple | list) else [found], strict=False):
        same = [
            given[i] if i < len(given) else named[a.name]
            for i, a in enumerate(func._schema.arguments)
            if due.alias_info and a.alias_info and a.alias_info.before_set == due.alias_info.before_set
        ]
        back.append(same[0] if same else wrap(value))
    return (back[0] if not isinstance(found, tuple | list) else type(found)(back)) if back else None


def moved(func, source, kwargs):
    """`.to`: what changes sides is counted."""
    asked, options = kwargs.get("device"), {k: v for k, v in kwargs.items() if k != "non_blocking"}
    if "device" in options:
        options["device"] = torch.device("cpu")
    found = func(unwrap(source), **options)
    if isinstance(source, OnDevice) and on(asked, "cpu"):
        waits[f"to the host {where()}"] += 1
        return found.clone()
    if isinstance(source, OnDevice) or on(asked, "acc"):
        copies[f"to the device {where()}"] += not isinstance(source, OnDevice)
        return OnDevice(found)
    return found


def gru(ig, hg, hx, input_bias, hidden_bias):
    """One step of a GRU: what CUDA fuses."""
    (ir, iz, inew), (hr, hz, hnew) = (ig + input_bias).chunk(3, 1), (hg + hidden_bias).chunk(3, 1)
    r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    n = torch.tanh(inew + r * hnew)
    return n + z * (hx - n), torch.cat([r, z, n, hx, hnew], 1)


def gru_back(grad, workspace, has_bias=True):
    r, z, n, hx, hnew = workspace.chunk(5, 1)
    dn, dz = grad * (1 - z) * (1 - n * n), grad * (hx - n) * z * (1 - z)
    dr = dn * hnew * r * (1 - r)
    gates, hidden = torch.cat([dr, dz, dn], 1), torch.cat([dr, dz, dn * r], 1)
    return gates, hidden, grad * z, gates.sum(0), hidden.sum(0)


class Fabric:
    """Stands in for Lightning's: moves the model to `DEVICE`, and looks at every step."""

    def __init__(self, **_):
        self.steps = []

    def setup(self, model, optimiser):
        before = dict(model.named_parameters())
        model.to(DEVICE)
        after = {id(p): q for p, q in zip(before.values(), model.parameters(), strict=True)}
        for group in optimiser.param_groups:
            group["params"] = [after.get(id(p), p) for p in group["params"]]
        return model, optimiser

    def backward(self, value):
        value.backward()

    def clip_gradients(self, model, optimiser, max_norm, **_):
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_norm, foreach=False)
        self.steps.append((dict(+waits), dict(+copies)))
        waits.clear(), copies.clear()
        if len(self.steps) == STEPS:
            SEEN.append(self.steps)
            raise Enough


SEEN: list = []
_tensor, _as_tensor = torch.tensor, torch.as_tensor


def tensor(data, *args, device=None, **options):
    """torch.tensor, which makes its tensors past the dispatcher."""
    waits[f"torch.tensor of a device's {where()}"] += any(isinstance(x, OnDevice) for x in tree_leaves(data))
    made = _tensor(tree_map(lambda x: unwrap(x), data), *args, device=None if on(device, "acc") else device, **options)
    copies[f"torch.tensor {where()}"] += on(device, "acc")
    return OnDevice(made) if on(device, "acc") else made


def as_tensor(data, dtype=None, device=None):
    if isinstance(data, torch.Tensor):
        return data.to(device=device or data.device, dtype=dtype or data.dtype)
    return (
        tensor(data, dtype=dtype, device=device) if on(device, "acc") else _as_tensor(data, dtype=dtype, device=device)
    )


def install() -> None:
    """From here on this process has the device, and `training.fit` trains on it, whatever it is told."""
    from lib import parallel

    torch.tensor, torch.as_tensor, parallel.Fabric = tensor, as_tensor, Fabric
    plain = torch.autocast

    class Autocast(plain):
        def __init__(self, device_type, *args, **options):
            super().__init__("cpu" if device_type == "acc" else device_type, *args, **options)

    torch.autocast = Autocast
    Pretend().__enter__()


def measure() -> dict[str, dict]:
    """Of each training the waits of a step, mean of the last three of four, and where; copies to the device apart."""
    found = {}
    for name, train in trainings().items():
        waits.clear(), copies.clear(), SEEN.clear()
        try:
            train()
        except Enough:
            rows = SEEN[-1][1:]
            lines: collections.Counter = collections.Counter()
            for each, _ in rows:
                lines.update(each)
            total = {k: sum(sum(r[i].values()) for r in rows) / 3 for i, k in enumerate(("waits", "copies"))}
            found[name] = total | {"where": {k: v / 3 for k, v in lines.most_common()}}
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
            if "-v" in sys.argv:
                traceback.print_exc()
    return found


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SLOTS_OUT"] = folder
        install()
        print(json.dumps(measure(), indent=1))
