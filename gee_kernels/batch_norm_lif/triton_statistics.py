"""Mean and variance per channel on the GPU: of parts of the rows first, then joined in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import block

PARTS = 1024  # partial results per channel, at most


@triton.jit(do_not_specialize=["rows", "part_rows"])
def statistics_kernel(
    p_x,  # [rows, C]
    p_partial,  # [2, parts, C] float32: mean, and sum of squared distances to it
    rows,
    C,
    part_rows,  # rows of one part, a multiple of BLOCK_R
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and squared distances of one part, every lane by Welford's recurrence, lanes joined by Chan's"""
    part = tl.program_id(0).to(tl.int64)
    o_r = tl.arange(0, BLOCK_R)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    first = part * part_rows
    b_mean = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    b_square = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for done in range(0, part_rows, BLOCK_R):
        o_row = first + done + o_r
        m_x = (o_row < rows)[:, None] & m_c[None, :]
        b_x = tl.load(p_x + o_row[:, None] * C + o_c[None, :], mask=m_x, other=0).to(tl.float32)
        step = done // BLOCK_R + 1
        b_delta = tl.where(m_x, b_x - b_mean, 0.0)
        b_mean += b_delta * (1.0 / step)
        b_square += b_delta * (b_x - b_mean)
    left = tl.minimum(rows - first, part_rows) - o_r  # rows that remain from lane r on
    b_count = (tl.maximum(left + BLOCK_R - 1, 0) // BLOCK_R).to(tl.float32)[:, None]
    b_part = tl.sum(b_mean * b_count, axis=0) / tl.sum(b_count)  # [BLOCK_C]
    b_apart = b_mean - b_part[None, :]
    b_total = tl.sum(b_square + b_count * b_apart * b_apart, axis=0)
    p_out = p_partial + part * C + o_c
    tl.store(p_out, b_part, mask=m_c)
    tl.store(p_out + tl.num_programs(0).to(tl.int64) * C, b_total, mask=m_c)


@triton.jit(do_not_specialize=["rows", "part_rows", "parts"])
def join_statistics_kernel(
    p_partial,  # [2, parts, C]
    p_mean,  # [C]
    p_var,  # [C], biased
    rows,
    C,
    part_rows,
    parts,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """mean = sum_p n_p mean_p / n,   var = sum_p (square_p + n_p (mean_p - mean)^2) / n"""
    o_p = tl.arange(0, BLOCK_P)
    o_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    b_sum = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for done in range(0, parts, BLOCK_P):
        o_part = (done + o_p).to(tl.int64)
        b_share = tl.maximum(tl.minimum(rows - o_part * part_rows, part_rows), 0).to(tl.float32) / rows
        m = (o_part < parts)[:, None] & m_c[None, :]
        b_sum += b_share[:, None] * tl.load(p_partial + o_part[:, None] * C + o_c[None, :], mask=m, other=0)
    b_mean = tl.sum(b_sum, axis=0)
    b_square = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for done in range(0, parts, BLOCK_P):
        o_part = (done + o_p).to(tl.int64)
        b_share = tl.maximum(tl.minimum(rows - o_part * part_rows, part_rows), 0).to(tl.float32) / rows
        m = (o_part < parts)[:, None] & m_c[None, :]
        o_partial = o_part[:, None] * C + o_c[None, :]
        b_apart = tl.load(p_partial + o_partial, mask=m, other=0) - b_mean[None, :]
        b_total = tl.load(p_partial + tl.cast(parts, tl.int64) * C + o_partial, mask=m, other=0)
        b_square += b_total / rows + b_share[:, None] * b_apart * b_apart
    tl.store(p_mean + o_c, b_mean, mask=m_c)
    tl.store(p_var + o_c, tl.sum(b_square, axis=0), mask=m_c)


def batch_statistics(
    rows: Tensor,
) -> tuple[Tensor, Tensor]:  # rows: [..., C] dense -> mean, biased var, [C] float32
    channels = rows.shape[-1]
    mean, var = (rows.new_empty(channels, dtype=torch.float32) for _ in range(2))
    n = rows.numel() // max(channels, 1)
    if n == 0:
        return mean.zero_(), var.zero_()
    block_c = block(channels, 64)
    block_r = 2048 // block_c
    part_rows = triton.cdiv(triton.cdiv(n, block_r), PARTS) * block_r
    parts = triton.cdiv(n, part_rows)
    partial = rows.new_empty((2, parts, channels), dtype=torch.float32)
    statistics_kernel[(parts, triton.cdiv(channels, block_c))](
        p_x=rows,
        p_partial=partial,
        rows=n,
        C=channels,
        part_rows=part_rows,
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        enable_fp_fusion=True,
    )
    join_statistics_kernel[(triton.cdiv(channels, 16),)](
        p_partial=partial,
        p_mean=mean,
        p_var=var,
        rows=n,
        C=channels,
        part_rows=part_rows,
        parts=parts,
        BLOCK_P=64,
        BLOCK_C=16,
        enable_fp_fusion=True,
    )
    return mean, var
