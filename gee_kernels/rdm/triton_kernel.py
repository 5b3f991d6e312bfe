"""Spikes that two images share, on the GPU: eight planes of bits, each a product for the tensor cores.

A product of 0/1 matrices in int8 with sums in int32 is AND and population count, and exact. A program takes
one tile of pairs and one run of bytes of one step, and adds its integers to the result: no order matters.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import Launch, block, meta

TENSOR_CORE_KERNELS = ("spike_overlaps_kernel",)
_RUN = 4096  # bytes of an image's step that one program reads


@triton.jit(do_not_specialize=["images", "runs"])
def spike_overlaps_kernel(
    p_bits,  # [T, B, size]
    p_overlaps,  # [B, B] int64, zeros
    images,
    size,  # bytes of one step of one image
    runs,  # programs that share one step
    RUN: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """overlaps[i, j] += sum_k popcount(bits[t, i, k] & bits[t, j, k])"""
    step, run = tl.program_id(0) // runs, tl.program_id(0) % runs
    row, column = tl.program_id(1), tl.program_id(2)
    if column <= row:
        o_i = row * BLOCK_B + tl.arange(0, BLOCK_B)
        o_j = column * BLOCK_B + tl.arange(0, BLOCK_B)
        p_step = p_bits + step.to(tl.int64) * images * size
        p_i = p_step + o_i.to(tl.int64)[:, None] * size
        p_j = p_step + o_j.to(tl.int64)[:, None] * size
        b_shared = tl.zeros((BLOCK_B, BLOCK_B), tl.int32)
        for first in range(0, RUN, BLOCK_K):
            o_k = run * RUN + first + tl.arange(0, BLOCK_K)
            m_k = (o_k < size)[None, :]
            b_i = tl.load(p_i + o_k[None, :], mask=(o_i < images)[:, None] & m_k, other=0)
            b_j = tl.load(p_j + o_k[None, :], mask=(o_j < images)[:, None] & m_k, other=0)
            for bit in tl.static_range(8):
                plane_i, plane_j = ((b_i >> bit) & 1).to(tl.int8), ((b_j >> bit) & 1).to(tl.int8)
                b_shared = tl.dot(plane_i, tl.trans(plane_j), b_shared, out_dtype=tl.int32)
        o_i, o_j = o_i.to(tl.int64)[:, None], o_j.to(tl.int64)[None, :]
        m = (o_i < images) & (o_j < images)
        b_shared = b_shared.to(tl.int64)
        tl.atomic_add(p_overlaps + o_i * images + o_j, b_shared, mask=m, sem="relaxed")
        if column < row:
            tl.atomic_add(p_overlaps + o_j * images + o_i, b_shared, mask=m, sem="relaxed")


def spike_overlaps(bits: Tensor, time_steps: int) -> Tensor:
    # bits: [T * B, *space, ceil(C / 8)] uint8 -> [B, B] int64
    images = bits.shape[0] // time_steps
    overlaps = bits.new_zeros((images, images), dtype=torch.int64)
    if bits.numel() == 0:
        return overlaps
    size = bits[0].numel()
    block_k = max(32, block(size, 64))  # int8 products need 32
    run = max(block_k, block(size, _RUN))
    runs, tiles = triton.cdiv(size, run), triton.cdiv(images, 64)
    spike_overlaps_kernel[(time_steps * runs, tiles, tiles)](
        p_bits=bits.contiguous(),
        p_overlaps=overlaps,
        images=images,
        size=size,
        runs=runs,
        RUN=run,
        BLOCK_B=64,
        BLOCK_K=block_k,
    )
    return overlaps


def launches() -> Iterator[Launch]:
    for channels, side in ((128, 32), (512, 2), (3, 5), (10, 1)):
        bits = meta(4 * 128, side, side, (channels + 7) // 8, dtype=torch.uint8)
        yield Launch(f"C={channels} {side}x{side}", spike_overlaps, (bits, 4))
