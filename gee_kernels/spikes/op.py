"""`pack_spikes` and `unpack_spikes`: one bit per spike, eight channels a byte."""

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.spikes import reference

_library.define("pack_spikes", "(Tensor x) -> Tensor")
_library.define("unpack_spikes", "(Tensor bits, int channels, ScalarType dtype) -> Tensor")
_library.register_triton("pack_spikes", "spikes")
_library.register_triton("unpack_spikes", "spikes")


@torch.library.register_fake("gee_kernels::pack_spikes")
def _pack_fake(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], *x.shape[2:], (x.shape[1] + 7) // 8), dtype=torch.uint8)


@torch.library.register_fake("gee_kernels::unpack_spikes")
def _unpack_fake(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    return bits.new_empty((*bits.shape[:-1], channels), dtype=dtype).movedim(-1, 1)


def pack_spikes(x: Tensor, *, backend: _library.Backend = "fused") -> Tensor:
    """Pack spikes to one bit each, eight channels a byte.

    Args:
        x: spikes `[N, C, *space]`, any dtype, any strides; every non-zero entry counts as a spike.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        `[N, *space, ceil(C / 8)]` uint8; bit i of byte j is channel 8 j + i, unused bits are 0.

    Raises:
        ValueError: x has fewer than two dimensions.
    """
    _library.check_backend(backend)
    if x.dim() < 2:
        raise ValueError(f"x must be [N, C, *space], got {list(x.shape)}")
    if backend == "reference":
        return reference.pack_spikes(x)
    return torch.ops.gee_kernels.pack_spikes(x)


def unpack_spikes(
    bits: Tensor, channels: int, dtype: torch.dtype = torch.float32, *, backend: _library.Backend = "fused"
) -> Tensor:
    """The inverse of `pack_spikes`.

    Args:
        bits: `[N, *space, ceil(C / 8)]` uint8.
        channels: C.
        dtype: floating type of the result.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        `[N, C, *space]` of zeros and ones, channels-last in memory.

    Raises:
        ValueError: bits is not uint8, or its last dimension does not fit `channels`.
    """
    _library.check_backend(backend)
    if bits.dtype != torch.uint8 or bits.dim() < 2 or bits.shape[-1] != (channels + 7) // 8:
        raise ValueError(
            f"bits must be uint8 [N, *space, {(channels + 7) // 8}] for {channels} channels, "
            f"got {bits.dtype} {list(bits.shape)}"
        )
    if backend == "reference":
        return reference.unpack_spikes(bits, channels, dtype)
    return torch.ops.gee_kernels.unpack_spikes(bits, channels, dtype)
