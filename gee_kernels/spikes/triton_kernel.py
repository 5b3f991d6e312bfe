"""One bit per spike on the GPU: bit i of byte j of a row is channel 8 j + i."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import STORAGE, Launch, block, check_storage, meta, short

_TILE = 512  # bytes of bits a program makes or reads: 4096 spikes


@triton.jit(do_not_specialize=["rows", "space"])
def pack_spikes_kernel(
    p_x,
    p_bits,
    rows,  # N * space
    space,
    channels,
    s_n,  # strides of x, in elements
    s_c,
    s_p,
    BYTES: tl.constexpr,  # bytes of one row, ceil(channels / 8)
    BLOCK_R: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """bits[r, j] = sum_i (x[r, 8 j + i] != 0) 2^i"""
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)  # [BLOCK_R]
    o_j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)  # [BLOCK_J]
    o_i = tl.arange(0, 8)
    o_c = o_j[:, None] * 8 + o_i[None, :]  # [BLOCK_J, 8]
    row = (o_r // space) * s_n + (o_r % space) * s_p
    m_x = (o_r < rows)[:, None, None] & (o_c < channels)[None, :, :]
    b_x = tl.load(p_x + row[:, None, None] + o_c.to(tl.int64)[None, :, :] * s_c, mask=m_x, other=0)
    if p_x.dtype.element_ty == tl.bfloat16:
        b_x = b_x.to(tl.float32)  # the interpreter compares bfloat16 bit by bit, which tells -0 from 0
    b_bits = tl.sum((b_x != 0).to(tl.int32) << o_i[None, None, :], axis=2)  # [BLOCK_R, BLOCK_J]
    m_bits = (o_r < rows)[:, None] & (o_j < BYTES)[None, :]
    tl.store(p_bits + o_r[:, None] * BYTES + o_j[None, :], b_bits.to(tl.uint8), mask=m_bits)


@triton.jit(do_not_specialize=["rows"])
def unpack_spikes_kernel(
    p_bits, p_x, rows, channels, BYTES: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_J: tl.constexpr
):
    """x[r, 8 j + i] = bit i of bits[r, j]"""
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)  # [BLOCK_R]
    o_j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)  # [BLOCK_J]
    o_i = tl.arange(0, 8)
    o_c = o_j[:, None] * 8 + o_i[None, :]  # [BLOCK_J, 8]
    m_bits = (o_r < rows)[:, None] & (o_j < BYTES)[None, :]
    b_bits = tl.load(p_bits + o_r[:, None] * BYTES + o_j[None, :], mask=m_bits, other=0).to(tl.int32)
    b_x = (b_bits[:, :, None] >> o_i[None, None, :]) & 1  # [BLOCK_R, BLOCK_J, 8]
    m_x = (o_r < rows)[:, None, None] & (o_c < channels)[None, :, :]
    p_out = p_x + o_r[:, None, None] * channels + o_c[None, :, :]
    tl.store(p_out, b_x.to(tl.float32).to(p_x.dtype.element_ty), mask=m_x)


def _blocks(rows: int, n_bytes: int) -> tuple[tuple[int, int], int, int]:
    block_j = block(n_bytes, 16)
    block_r = min(_TILE // block_j, 128)
    return (triton.cdiv(rows, block_r), triton.cdiv(n_bytes, block_j)), block_r, block_j


def pack_spikes(x: Tensor) -> Tensor:
    # x: [N, C, *space] -> [N, *space, ceil(C / 8)] uint8
    n_bytes = (x.shape[1] + 7) // 8
    bits = x.new_empty((x.shape[0], *x.shape[2:], n_bytes), dtype=torch.uint8)
    if bits.numel() == 0:
        return bits
    # Space is brought to one dimension; a view unless the strides of space do not nest.
    x = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
    x = x.view(torch.uint8) if x.dtype == torch.bool else x
    rows = x.shape[0] * x.shape[2]
    grid, block_r, block_j = _blocks(rows, n_bytes)
    pack_spikes_kernel[grid](
        p_x=x,
        p_bits=bits,
        rows=rows,
        space=x.shape[2],
        channels=x.shape[1],
        s_n=x.stride(0),
        s_c=x.stride(1),
        s_p=x.stride(2),
        BYTES=n_bytes,
        BLOCK_R=block_r,
        BLOCK_J=block_j,
    )
    return bits


def unpack_spikes(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    # bits: [N, *space, ceil(C / 8)] -> [N, C, *space], channels-last in memory
    bits = bits.contiguous()
    x = bits.new_empty((*bits.shape[:-1], channels), dtype=dtype)
    check_storage("unpack_spikes", dtype=x)
    if x.numel():
        rows = bits.numel() // bits.shape[-1]
        grid, block_r, block_j = _blocks(rows, bits.shape[-1])
        unpack_spikes_kernel[grid](
            p_bits=bits,
            p_x=x,
            rows=rows,
            channels=channels,
            BYTES=bits.shape[-1],
            BLOCK_R=block_r,
            BLOCK_J=block_j,
        )
    return x.movedim(-1, 1)


def launches() -> Iterator[Launch]:
    for channels, dtypes in ((3, STORAGE[-1:]), (128, STORAGE)):
        for dtype in dtypes:
            x = meta(32, channels, 16, 16, dtype=dtype, channels_last=True)
            yield Launch(f"pack {short(dtype)} C={channels}", pack_spikes, (x,))
            bits = meta(32, 16, 16, (channels + 7) // 8, dtype=torch.uint8)
            yield Launch(f"unpack {short(dtype)} C={channels}", unpack_spikes, (bits, channels, dtype))
    yield Launch("pack f32 contiguous", pack_spikes, (meta(32, 128, 16, 16),))
