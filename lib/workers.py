"""Runs on workers of dask, here or on other machines: each has one GPU or a share of the cores, for one run at a time.

dask starts, watches and replaces workers; what it does with tasks is narrowed to this: a worker is given no second task
while it has one, because dask holds all tasks of a worker that was killed for suspects, and a GPU has room for one.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, Future, Nanny, Scheduler, SpecCluster, get_worker

#: What a worker has one of, and what a run takes: `dask worker ADDRESS --resources run=1`.
RUN = {"run": 1}
LOOK_EVERY = 0.5  # seconds
PATIENCE = 10  # seconds that a scheduler has to answer


@contextmanager
def local(count: int) -> Iterator[Client]:
    """`count` workers on this machine, each with a GPU of its own where there are some, and its share of the cores.

    Raises:
        ValueError: there are GPUs, but fewer.
    """
    from torch.cuda import device_count  # takes seconds, and workers need it not

    gpus = device_count()
    if 0 < gpus < count:
        raise ValueError(
            f"--workers is {count} and there are {gpus} GPUs, one for a run; give at most {gpus}, "
            'or CUDA_VISIBLE_DEVICES="" to run on the CPU'
        )
    names = [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n] or [str(i) for i in range(gpus)]
    options = {"nthreads": max(CPU_COUNT // count, 1), "resources": RUN, "memory_limit": 0, "host": "127.0.0.1"}
    options |= {"dashboard": False, "silence_logs": logging.ERROR}
    workers = {i: {"cls": Nanny, "options": options | {"env": _seen(names[i : i + 1])}} for i in range(count)}
    own = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}  # any free ports
    scheduler = {"cls": Scheduler, "options": own}
    logging.getLogger("distributed").setLevel(logging.ERROR)
    # A worker that is replaced is late where the machine is busy; dask would give it up after 15 s.
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}):
        with SpecCluster(workers, scheduler) as cluster, Client(cluster) as client:
            yield client


@contextmanager
def remote(address: str) -> Iterator[Client]:
    """The workers of a scheduler that somebody has started; they see the same files under the same paths.

    Raises:
        ValueError: nobody answers there, or its workers have no room for a run.
    """
    start = f"dask worker {address} --nthreads CORES --resources run=1, one for each GPU"
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(f"no scheduler answers at {address} ({error}); start one with dask scheduler") from error
    with client:
        if (there := len(client.scheduler_info()["workers"])) and not _room(client):
            raise ValueError(f"{there} workers at {address}, none with the resource run; start {start}")
        if not there:
            print(f"waiting for workers: {start}", flush=True)
        yield client


def spread(
    client: Client, task: Callable[..., Any], join: Callable[..., Any], calls: dict[str, tuple]
) -> Iterator[tuple[str, Any | Exception]]:
    """What `task(*calls[name])` returns or raises, in the order in which they end, one on a worker at a time.

    A call whose worker is killed is begun again on another; dask gives up when that was the fourth (`KilledWorker`).
    A worker for which no call is left joins one that runs, `join(*calls[name])`, for nobody's result.
    """
    environment = {k: v for k, v in os.environ.items() if k.startswith("SLOTS_")}
    waiting, running, joined = list(calls), {}, {}

    def submit(what: Callable, name: str) -> Future:
        return client.submit(_on_worker, what, calls[name], environment, resources=RUN, pure=False)

    try:
        while waiting or running:
            ended = {name for future, name in joined.items() if future.done()}  # there is nothing left to take
            alone = [name for name in running.values() if name not in ended]
            if (room := _room(client) - len(running) - sum(not f.done() for f in joined)) > 0 and waiting:
                name = waiting.pop(0)
                running[submit(task, name)] = name
            elif room > 0 and alone:
                name = min(alone, key=[*joined.values()].count)
                joined[submit(join, name)] = name
            else:
                time.sleep(LOOK_EVERY)
            for future in [f for f in running if f.done()]:
                yield running.pop(future), _result(future)
    finally:
        _stop(client, [*running, *joined])


def _on_worker(task: Callable[..., Any], call: tuple, environment: dict[str, str]) -> Any:
    """Within a worker: what the task starts has as many threads as the worker, not the one that dask allows."""
    threads = str(get_worker().state.nthreads)
    os.environ |= environment | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    return task(*call)


def _seen(gpus: list[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpus[0]} if gpus else {}


def _room(client: Client) -> int:
    """Workers that take runs."""
    return sum(worker["resources"].get("run", 0) >= 1 for worker in client.scheduler_info()["workers"].values())


def _result(future: Future) -> Any:
    try:
        return future.result()
    except Exception as error:  # of the task, or of the worker under it
        return error


def _stop(client: Client, futures: list[Future]) -> None:
    """Workers of others that are still at work are started anew, because dask stops no task that has begun."""
    keys = {future.key for future in futures if not future.done()}
    busy = [worker for worker, at in client.processing().items() if keys & {*at}]
    client.cancel(futures)
    if busy and client.cluster is None:  # else they end with their cluster
        client.restart_workers(busy, raise_for_error=False)
