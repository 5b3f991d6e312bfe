"""Spikes and the accumulations they cause, counted on the GPU from packed bits; one program per sample."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import Launch, block, meta


@triton.jit(do_not_specialize=["size"])
def count_synapses_kernel(
    p_bits,  # [N, P, bytes]
    p_fan_out,  # [P] int64
    p_counts,  # [N, 2] int64
    size,  # P * bytes
    BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """counts[n] = sum_{p, c} s[n, p, c],  sum_{p, c} s[n, p, c] * fan_out[p]"""
    n = tl.program_id(0).to(tl.int64)
    b_spikes = tl.zeros((BLOCK,), tl.int64)
    b_accumulations = tl.zeros((BLOCK,), tl.int64)
    for first in range(0, size, BLOCK):
        o = first + tl.arange(0, BLOCK)
        m = o < size
        b = tl.load(p_bits + n * size + o, mask=m, other=0).to(tl.int32)
        b = b - ((b >> 1) & 0x55)  # ones in each pair of bits, then in each four, then in the byte
        b = (b & 0x33) + ((b >> 2) & 0x33)
        b_ones = ((b + (b >> 4)) & 0x0F).to(tl.int64)
        b_spikes += b_ones
        b_accumulations += b_ones * tl.load(p_fan_out + o // BYTES, mask=m, other=0)
    tl.store(p_counts + 2 * n, tl.sum(b_spikes))
    tl.store(p_counts + 2 * n + 1, tl.sum(b_accumulations))


def count_synapses(bits: Tensor, fan_out: Tensor) -> Tensor:
    # bits: [N, *space, ceil(C / 8)] uint8, fan_out: [*space] int64 -> [N, 2] int64
    counts = bits.new_empty((bits.shape[0], 2), dtype=torch.int64)
    if bits.numel() == 0:
        return counts.zero_()
    size = bits[0].numel()
    count_synapses_kernel[(bits.shape[0],)](
        p_bits=bits.contiguous(),
        p_fan_out=fan_out.contiguous(),
        p_counts=counts,
        size=size,
        BYTES=bits.shape[-1],
        BLOCK=block(size, 512),
    )
    return counts


def launches() -> Iterator[Launch]:
    for channels, space in ((128, 32), (3, 5)):
        bits = meta(32, space, space, (channels + 7) // 8, dtype=torch.uint8)
        fan_out = meta(space, space, dtype=torch.int64)
        yield Launch(f"C={channels} {space}x{space}", count_synapses, (bits, fan_out))
