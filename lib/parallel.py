"""One training on several devices or machines: `torchrun` starts the processes, each trains on its share of a batch.

A step's numbers are those of one process, but for the order of sums. Every process draws the whole batch and all of its
noise from `(seed, step)`, as one would alone, and takes its part (`shared`, `draws`); gradients and what is logged are
means over the processes. A training that never asks for a share is the same in all of them, and gains nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

Batch = TypeVar("Batch", bound=Sequence | Tensor)


def size() -> int:
    """How many processes train together: those of `torchrun`; one, whatever else a scheduler has started."""
    return int(os.environ["WORLD_SIZE"]) if TorchElasticEnvironment.detect() else 1


def rank() -> int:
    """The number of this process; that of the one that prints, watches the clock and writes files is 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def fabric(device: torch.device, precision: str) -> Fabric:
    """Lightning's, of one process or of all that train together; of these each waits here for the others."""
    if size() == 1:
        plugins = [LightningEnvironment()]
        return Fabric(accelerator=device.type, devices=1, precision=precision, plugins=plugins)
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    how = {"strategy": "ddp", "devices": here, "num_nodes": size() // here, "plugins": [TorchElasticEnvironment()]}
    made = Fabric(accelerator=device.type, precision=precision, **how)
    made.launch()
    return made


def joined(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, with batch statistics of the whole batch.

    Raises:
        ValueError: they can be had on GPUs alone.
    """
    if size() == 1 or not any(isinstance(part, _BatchNorm) for part in model.modules()):
        return model
    if device.type == "cpu":
        raise ValueError("BatchNorm has statistics of the whole batch on GPUs alone; train it in one process, or there")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def shared(batch: Batch) -> Batch:
    """The part of a whole batch that this process trains on: all of it where there is one.

    Raises:
        ValueError: the batch cannot be divided.
    """
    share, rest = divmod(len(batch), size())
    if rest:
        raise ValueError(f"a batch of {len(batch)} has no equal parts for {size()} processes; choose another batch")
    return batch[share * rank() : share * (rank() + 1)]


@contextmanager
def draws(batch: int) -> Iterator[None]:
    """Within, noise for the samples of a share is that which one process draws for them; errors as of `shared`."""
    share = len(shared(range(batch)))
    with nullcontext() if share == batch else _Draws(share):
        yield


class _Draws(TorchFunctionMode):
    """What has as many rows as a share is drawn for the whole batch, and the share's rows of it are taken.

    A single number a sample, such as an augmentation draws, does not count: those are drawn one after the other.
    """

    def __init__(self, share: int):
        super().__init__()
        self.share = share

    def __torch_function__(self, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.rand, torch.randn):
            shape = args[0] if isinstance(args[0], Sequence) else args
            if self._fits(shape):
                return shared(function(self._whole(shape), **kwargs))
        elif function in (F.dropout, F.dropout2d, Tensor.bernoulli_) and self._fits(args[0].shape):
            ones = torch.ones(self._whole(args[0].shape), dtype=args[0].dtype, device=args[0].device)
            kept = shared(function(ones, *args[1:], **kwargs))
            return args[0].copy_(kept) if function is Tensor.bernoulli_ else args[0] * kept
        return function(*args, **kwargs)

    def _fits(self, shape: Sequence[int]) -> bool:
        return len(shape) > 1 and shape[0] == self.share

    def _whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (self.share * size(), *shape[1:])


def average(total: Tensor, count: Tensor) -> Tensor:
    """A sum over things of the share, divided so that its mean over processes is the average of all things.

    Shares may hold different numbers of them, such as pixels that are labelled; or none.
    """
    if size() > 1:
        distributed.all_reduce(count := count.double())
        count = count / size()
    return total / count.to(total.dtype)


def mean(numbers: Tensor) -> Tensor:
    """Their mean over processes."""
    if size() > 1:
        distributed.all_reduce(numbers)
        numbers = numbers / size()
    return numbers


def agreed(flag: bool, device: torch.device) -> bool:
    """Whether any process says so: all do then the same."""
    return bool(mean(torch.tensor(float(flag), device=device)) > 0)


def wait(device: torch.device) -> None:
    """Until all processes are here."""
    if size() > 1:
        if not distributed.is_initialized():
            fabric(device, "32-true")
        distributed.barrier()


def say(text: str) -> None:
    """Print it once."""
    if rank() == 0:
        print(text)
