"""`count_synapses`: spikes and the weights they add, per sample, straight from the packed bits."""

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.synapses import reference

_library.define("count_synapses", "(Tensor bits, Tensor fan_out) -> Tensor")
# Expects gee_kernels/synapses/triton_kernel.py with count_synapses(bits, fan_out), as in reference.py.
_library.register_triton("count_synapses", "synapses")


@torch.library.register_fake("gee_kernels::count_synapses")
def _fake(bits: Tensor, fan_out: Tensor) -> Tensor:
    return bits.new_empty((bits.shape[0], 2), dtype=torch.int64)


def count_synapses(bits: Tensor, fan_out: Tensor, *, backend: _library.Backend = "fused") -> Tensor:
    """Count spikes and the synaptic accumulations they cause, exactly, without a host synchronisation.

    Args:
        bits: spikes as `pack_spikes` packs them, `[N, *space, ceil(C / 8)]` uint8.
        fan_out: `[*space]` int64, the weights that one spike at this position meets (the same for every
            channel): output positions in reach, fewer at borders and under strides, times output channels.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        `[N, 2]` int64: spikes, accumulations.

    Raises:
        ValueError: another type, or shapes that do not fit each other.
    """
    _library.check_backend(backend)
    if bits.dtype != torch.uint8 or bits.dim() < 2:
        raise ValueError(f"bits must be uint8 [N, *space, bytes], got {bits.dtype} {list(bits.shape)}")
    if fan_out.dtype != torch.int64 or fan_out.shape != bits.shape[1:-1]:
        raise ValueError(
            f"fan_out must be int64 {list(bits.shape[1:-1])} for bits {list(bits.shape)}, "
            f"got {fan_out.dtype} {list(fan_out.shape)}"
        )
    if backend == "reference":
        return reference.count_synapses(bits, fan_out)
    return torch.ops.gee_kernels.count_synapses(bits, fan_out)
