"""One process, or several started by torchrun: the few calls in which they differ."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """Replace `x` by its sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace the tensors by those of the first process, in place."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@contextlib.contextmanager
def processes(device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; yields the device of this one.

    Args:
        device: `"auto"` (CUDA where there is one), `"cpu"`, or `"cuda"`; under torchrun each process takes
            the GPU of its local rank.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if "RANK" not in os.environ:
        yield torch.device(name)
        return
    own = torch.device(name)
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield own
    finally:
        dist.destroy_process_group()
