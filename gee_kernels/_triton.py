"""What the Triton kernels share. With the `triton_kernel.py` files, the only place that imports triton.

Every `triton_kernel.py` ends with `launches()`: one `Launch` per kernel and configuration that users can
reach (dtypes, options, shapes that select another block or plan), with meta tensors for tensors. The list
is what `python -m bench.compile_kernels` compiles for GPUs that are not there and tabulates. Kernels named in
a file's `TENSOR_CORE_KERNELS` must contain tensor-core instructions.

Launches state `enable_fp_fusion`, whose default changes in Triton 3.10: False where spikes depend on it, as a
multiplication fused with an addition rounds differently from PyTorch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

STORAGE = (torch.float16, torch.bfloat16, torch.float32)


class Launch(NamedTuple):
    """One call of a launcher; the kernels it launches are compiled exactly as this call would."""

    label: str  # unique within its file, short: "forward bf16 T=4"
    launcher: Callable[..., Any]
    args: tuple


def meta(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    """A tensor without memory, as an argument of `Launch`."""
    out = torch.empty(shape, dtype=dtype, device="meta")
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


def short(dtype: torch.dtype) -> str:
    """bf16, f16, f32: for labels."""
    return {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}[dtype]


def check_storage(operator: str, **tensors: Tensor) -> None:
    """Raise TypeError for a floating type that the Triton kernels do not compute in."""
    for name, tensor in tensors.items():
        if tensor.dtype not in STORAGE:
            raise TypeError(
                f"{operator}: {name} must be float16, bfloat16 or float32 on this device, "
                f'got {tensor.dtype}; float64 needs backend="reference"'
            )


def block(size: int, limit: int) -> int:
    """The power of two that covers `size`, at most `limit` (a power of two)."""
    return min(triton.next_power_of_2(max(size, 1)), limit)
