"""Run the operators' Triton kernels without a GPU, in Triton's interpreter, with memory that tells on them.

os.environ["TRITON_INTERPRET"] = "1"    # before anything imports triton

with gee_kernels.testing.interpreted():
    gee_kernels.lif(x)                  # CPU tensors, Triton kernels; autograd, opcheck, whole models
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gee_kernels import _library

_GUARD = 4096  # bytes before and behind every tensor; a multiple of every alignment that kernels assume
_POISON = 0xFF  # every byte of memory nobody wrote: NaN in all floating types, -1 or 255 in integers

_ALLOCATE: dict[Callable, bool] = {  # function -> whether it promises values
    torch.empty: False,
    torch.empty_like: False,
    torch.empty_strided: False,
    torch.Tensor.new_empty: False,
    torch.Tensor.new_empty_strided: False,
    torch.zeros: True,
    torch.zeros_like: True,
    torch.full: True,
    torch.Tensor.new_zeros: True,
    torch.Tensor.new_full: True,
}


@contextmanager
def interpreted() -> Iterator[None]:
    """Within the context the operators run their Triton launchers on CPU tensors.

    Inputs and allocations stand between guard zones. Memory that a kernel reads outside its inputs, or
    leaves unwritten in its outputs, is NaN (-1 or 255 in integers); a write outside is an error.
    The interpreter of Triton 3.6 needs numpy < 2.4.

    Raises:
        RuntimeError: triton would compile its kernels, because TRITON_INTERPRET is not 1.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "interpreted() needs TRITON_INTERPRET=1 in the environment before triton is imported"
        )
    library = torch.library.Library(_library.NAMESPACE, "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*Overriding a previously registered kernel")
        for name, launcher in _library.triton_launchers.items():
            library.impl(name, _guarded(name, launcher), "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def _guarded(name: str, launcher: Callable) -> Callable:
    """`launcher` of operator `name` with its inputs and its allocations between guard zones."""
    schema = getattr(torch.ops.gee_kernels, name).default._schema
    mutated = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]

    def launch(*args: Any) -> Any:
        guards = _Guards()
        args = tuple(
            guards.place(a, keep=True) if isinstance(a, Tensor) and not m else a
            for a, m in zip(args, mutated, strict=True)
        )
        with guards:
            out = launcher(*args)
        guards.check(name)
        return out

    return launch


class _Guards(TorchFunctionMode):
    """While active, new tensors are poisoned and stand between guard zones."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return self.place(out, keep=_ALLOCATE[func]) if func in _ALLOCATE else out

    def place(self, x: Tensor, keep: bool) -> Tensor:
        """A tensor like x, strides included, between guard zones; with x's values if `keep`."""
        span = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
        if not span:
            return x
        buffer = torch.full((2 * _GUARD + span * x.element_size(),), _POISON, dtype=torch.uint8)
        self.buffers.append(buffer)
        # frombuffer makes a storage that begins between the guards: kernels' outputs have no offset.
        flat = torch.frombuffer(buffer.numpy(), dtype=x.dtype, count=span, offset=_GUARD)
        if keep:
            flat.copy_(x.detach().as_strided((span,), (1,)))
        return torch.empty(0, dtype=x.dtype).set_(flat.untyped_storage(), 0, x.shape, x.stride())

    def check(self, name: str) -> None:
        for buffer in self.buffers:
            if not (buffer[:_GUARD] == _POISON).all() or not (buffer[-_GUARD:] == _POISON).all():
                raise RuntimeError(f"the Triton kernel of {name} wrote outside a tensor")
