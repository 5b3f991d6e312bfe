"""Batch normalisation, residual and leaky integrate-and-fire on the GPU.

Everything is channels-last: row m of step t, channel c lies at (t * M + m) * C + c, with M = B * H * W. A
tile is [rows, bytes, 8]: eight channels side by side make a byte of packed spikes. Only sums of integers are
atomic; sums of floats are taken in two stages, in an order that depends on the shapes alone.

forward:   the statistics (triton_statistics.py), then one pass: normalise, add, fire, pack, count
backward:  one pass for the sums (grad_weight, grad_bias), one for grad_x; both recompute the membrane
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import STORAGE, Launch, block, check_storage, meta, short
from gee_kernels.batch_norm_lif import triton_statistics
from gee_kernels.lif.triton_kernel import block_size, charge, chunk_steps, fire, reset, step_backward
from gee_kernels.surrogate import SURROGATES


@triton.jit
def load_vector(p_vector, o_c, m_c):
    """A vector's values at the channels of a tile, [1, J, 8]"""
    return tl.load(p_vector + o_c, mask=m_c, other=0)[None, :, :]


@triton.jit
def load_current(p_x, p_residual, p_residual_bits, o_row, m_row, o_c, m_c, C, b_mean, b_scale, b_bias):
    """x - mean, and y = (x - mean) * scale + bias [+ residual], both [R, J, 8]"""
    m_x = m_row[:, None, None] & m_c[None, :, :]
    o_x = o_row[:, None, None] * C + o_c[None, :, :]
    b_centred = tl.load(p_x + o_x, mask=m_x, other=0).to(tl.float32) - b_mean
    b_y = b_centred * b_scale + b_bias
    if p_residual_bits is not None:
        o_byte = o_row[:, None, None] * ((C + 7) // 8) + (o_c // 8)[None, :, :]
        b_byte = tl.load(p_residual_bits + o_byte, mask=m_x, other=0).to(tl.int32)
        b_y += ((b_byte >> (o_c % 8)[None, :, :]) & 1).to(tl.float32)
    elif p_residual is not None:
        b_y += tl.load(p_residual + o_x, mask=m_x, other=0).to(tl.float32)
    return b_centred, b_y


@triton.jit(do_not_specialize=["T", "M", "space", "blocks"])
def batch_norm_lif_forward_kernel(
    p_x,  # [T, M, C]
    p_weight,  # vectors: [C] float32
    p_bias,
    p_mean,
    p_var,
    p_residual,  # [T, M, C] or None
    p_residual_bits,  # [T, M, ceil(C / 8)] or None
    p_spikes,  # [T, M, C]
    p_bits,  # [T, M, ceil(C / 8)]
    p_counts,  # [T, B, C] int32, zeros
    T,
    M,
    C,
    space,  # H * W
    blocks,  # of positions in an image
    eps,
    inv_tau,
    v_threshold,
    rest,
    STEPS: tl.constexpr,
    SOFT_RESET: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """spikes, bits and counts of one block of positions of one image, all T steps"""
    image = tl.program_id(0) // blocks
    o_p = (tl.program_id(0) % blocks) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    o_i = tl.arange(0, 8)
    o_c = o_j[:, None] * 8 + o_i[None, :]  # [J, 8]
    m_r = o_p < space
    m_c = o_c < C
    b_mean = load_vector(p_mean, o_c, m_c)
    b_scale = tl.rsqrt(load_vector(p_var, o_c, m_c) + eps) * load_vector(p_weight, o_c, m_c)
    b_bias = load_vector(p_bias, o_c, m_c)
    b_v = tl.zeros((BLOCK_R, BLOCK_J, 8), tl.float32) + rest
    for first in range(0, T, STEPS):
        for k in tl.static_range(STEPS):
            t = first + k
            m_t = tl.full((BLOCK_R,), t, tl.int32) < T
            o_row = t.to(tl.int64) * M + image.to(tl.int64) * space + o_p  # [R]
            m_row = m_r & m_t
            _, b_y = load_current(
                p_x, p_residual, p_residual_bits, o_row, m_row, o_c, m_c, C, b_mean, b_scale, b_bias
            )
            b_h = charge(b_y, b_v, inv_tau, rest, DECAY_INPUT)
            b_s = fire(b_h, v_threshold)
            b_v = reset(b_h, b_s, v_threshold, rest, SOFT_RESET)
            m_x = m_row[:, None, None] & m_c[None, :, :]
            p_out = p_spikes + o_row[:, None, None] * C + o_c[None, :, :]
            tl.store(p_out, b_s.to(p_spikes.dtype.element_ty), mask=m_x)
            b_one = tl.where(m_x, b_s, 0.0).to(tl.int32)
            b_byte = tl.sum(b_one << o_i[None, None, :], axis=2)  # [R, J]
            bytes_per_row = (C + 7) // 8
            m_byte = m_row[:, None] & (o_j < bytes_per_row)[None, :]
            tl.store(p_bits + o_row[:, None] * bytes_per_row + o_j[None, :], b_byte.to(tl.uint8), mask=m_byte)
            o_count = (t.to(tl.int64) * (M // space) + image) * C + o_c
            m_count = m_c & (tl.full((BLOCK_J, 8), t, tl.int32) < T)
            tl.atomic_add(p_counts + o_count, tl.sum(b_one, axis=0), mask=m_count, sem="relaxed")


@triton.jit(do_not_specialize=["T", "M", "blocks"])
def batch_norm_lif_backward_kernel(
    p_grad_spikes,  # [T, M, C]
    p_x,  # [T, M, C]
    p_weight,  # vectors: [C] float32
    p_bias,
    p_mean,
    p_var,
    p_residual,  # [T, M, C] or None
    p_residual_bits,  # [T, M, ceil(C / 8)] or None
    p_checkpoint,  # [chunks, M, C] float32, V before each chunk; None where one chunk is all
    p_partial,  # [2, parts, C] float32, the sums' pass; None in the other
    p_grad_weight,  # [C], with TRAINING in the other pass, where p_partial is None
    p_grad_bias,
    p_grad_x,  # [T, M, C]
    p_grad_residual,  # [T, M, C] or None
    T,
    M,
    C,
    blocks,  # of rows, together M
    eps,
    inv_count,  # 1 / (T * M)
    inv_tau,
    v_threshold,
    rest,
    alpha,
    STEPS: tl.constexpr,
    SOFT_RESET: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    SURROGATE: tl.constexpr,
    TRAINING: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """With gy = dL/dy and u = (x - mean) / sqrt(var + eps), n values per channel:

    sums' pass:   grad_bias = sum gy,  grad_weight = sum gy u
    other pass:   grad_residual = gy,  grad_x = weight / sqrt(var + eps) (gy - (grad_bias + u grad_weight)/n)
    """
    o_r = tl.arange(0, BLOCK_R)
    o_j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    o_c = o_j[:, None] * 8 + tl.arange(0, 8)[None, :]  # [J, 8]
    m_c = o_c < C
    b_mean = load_vector(p_mean, o_c, m_c)
    b_rstd = tl.rsqrt(load_vector(p_var, o_c, m_c) + eps)
    b_scale = b_rstd * load_vector(p_weight, o_c, m_c)
    b_bias = load_vector(p_bias, o_c, m_c)
    b_sum = tl.zeros((BLOCK_R, BLOCK_J, 8), tl.float32)  # of gy
    b_sum_u = tl.zeros((BLOCK_R, BLOCK_J, 8), tl.float32)  # of gy (x - mean)
    if p_partial is None and TRAINING:
        b_offset = load_vector(p_grad_bias, o_c, m_c) * inv_count
        b_slope = load_vector(p_grad_weight, o_c, m_c) * b_rstd * inv_count
    last = (tl.cdiv(T, STEPS) - 1) * STEPS  # first step of the last chunk
    for index in range(tl.program_id(0), blocks, tl.num_programs(0)):
        o_m = index * BLOCK_R + o_r.to(tl.int64)
        m_m = o_m < M
        m_v = m_m[:, None, None] & m_c[None, :, :]
        o_v = o_m[:, None, None] * C + o_c[None, :, :]
        b_v = tl.zeros((BLOCK_R, BLOCK_J, 8), tl.float32) + rest
        if p_checkpoint is not None and p_partial is not None:
            tl.store(p_checkpoint + o_v, b_v, mask=m_v)
            for first in range(0, last, STEPS):
                for k in tl.static_range(STEPS):
                    t = first + k
                    o_row = t.to(tl.int64) * M + o_m
                    _, b_y = load_current(
                        p_x, p_residual, p_residual_bits, o_row, m_m, o_c, m_c, C, b_mean, b_scale, b_bias
                    )
                    b_h = charge(b_y, b_v, inv_tau, rest, DECAY_INPUT)
                    b_v = reset(b_h, fire(b_h, v_threshold), v_threshold, rest, SOFT_RESET)
                chunk = first // STEPS + 1
                tl.store(p_checkpoint + chunk.to(tl.int64) * M * C + o_v, b_v, mask=m_v)
            tl.debug_barrier()  # what a thread stored, another may load
        b_gv = tl.zeros((BLOCK_R, BLOCK_J, 8), tl.float32)
        for back in range(0, T, STEPS):
            first = last - back
            if p_checkpoint is not None:
                chunk = first // STEPS
                b_v = tl.load(p_checkpoint + chunk.to(tl.int64) * M * C + o_v, mask=m_v, other=0)
            h = ()
            centred = ()
            for k in tl.static_range(STEPS):
                t = first + k
                m_row = m_m & (tl.full((BLOCK_R,), t, tl.int32) < T)
                o_row = t.to(tl.int64) * M + o_m
                b_centred, b_y = load_current(
                    p_x, p_residual, p_residual_bits, o_row, m_row, o_c, m_c, C, b_mean, b_scale, b_bias
                )
                b_h = charge(b_y, b_v, inv_tau, rest, DECAY_INPUT)
                b_v = reset(b_h, fire(b_h, v_threshold), v_threshold, rest, SOFT_RESET)
                h = h + (b_h,)  # type: ignore[assignment]  # noqa: RUF005  (Triton: no starred tuples)
                centred = centred + (b_centred,)  # type: ignore[assignment]  # noqa: RUF005
            for k in tl.static_range(STEPS - 1, -1, -1):
                t = first + k
                m_row = m_m & (tl.full((BLOCK_R,), t, tl.int32) < T)
                m_x = m_row[:, None, None] & m_c[None, :, :]
                o_x = (t.to(tl.int64) * M + o_m)[:, None, None] * C + o_c[None, :, :]
                b_gs = tl.load(p_grad_spikes + o_x, mask=m_x, other=0).to(tl.float32)
                b_gy, b_gv_before = step_backward(
                    b_gs,
                    b_gv,
                    h[k],
                    inv_tau,
                    v_threshold,
                    rest,
                    alpha,
                    SOFT_RESET,
                    DECAY_INPUT,
                    DETACH_RESET,
                    SURROGATE,
                )
                b_gv = tl.where(m_x, b_gv_before, b_gv)
                if p_partial is not None:
                    b_gy = tl.where(m_x, b_gy, 0.0)
                    b_sum += b_gy
                    b_sum_u += b_gy * centred[k]
                else:
                    b_gx = b_gy
                    if TRAINING:
                        b_gx = b_gy - (b_offset + centred[k] * b_slope)
                    tl.store(p_grad_x + o_x, (b_gx * b_scale).to(p_grad_x.dtype.element_ty), mask=m_x)
                    if p_grad_residual is not None:
                        tl.store(p_grad_residual + o_x, b_gy.to(p_grad_residual.dtype.element_ty), mask=m_x)
    if p_partial is not None:
        p_out = p_partial + tl.program_id(0).to(tl.int64) * C + o_c
        tl.store(p_out, tl.sum(b_sum, axis=0), mask=m_c)
        b_total = tl.sum(b_sum_u * b_rstd, axis=0)
        tl.store(p_out + tl.num_programs(0).to(tl.int64) * C, b_total, mask=m_c)


@triton.jit(do_not_specialize=["parts"])
def join_sums_kernel(
    p_partial,  # [2, parts, C]
    p_first,  # [C]
    p_second,  # [C]
    C,
    parts,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The two sums over parts"""
    o_p = tl.arange(0, BLOCK_P)
    o_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    b_first = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    b_second = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for done in range(0, parts, BLOCK_P):
        o_part = (done + o_p).to(tl.int64)
        m = (o_part < parts)[:, None] & m_c[None, :]
        p_in = p_partial + o_part[:, None] * C + o_c[None, :]
        b_first += tl.load(p_in, mask=m, other=0)
        b_second += tl.load(p_in + tl.cast(parts, tl.int64) * C, mask=m, other=0)
    tl.store(p_first + o_c, tl.sum(b_first, axis=0), mask=m_c)
    tl.store(p_second + o_c, tl.sum(b_second, axis=0), mask=m_c)


def _rows(x: Tensor) -> Tensor:
    """[T*B, C, *space] to dense [T*B, *space, C], without a copy where x is channels-last."""
    return x.movedim(1, -1).contiguous()


def _tile(rows: int, channels: int, size: int) -> tuple[int, int]:
    """Rows and bytes of channels of a tile of `size` values, as near to 128 channels as the rows allow."""
    n_bytes = (channels + 7) // 8
    block_r = block(rows, size // 8 // block(n_bytes, 16))
    return block_r, block(n_bytes, size // 8 // block_r)


def batch_norm_lif(
    x: Tensor,  # [T*B, C, *space]
    weight: Tensor,  # vectors: [C] float32
    bias: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    residual: Tensor | None,  # [T*B, C, *space]
    residual_bits: Tensor | None,  # [T*B, *space, ceil(C / 8)]
    time_steps: int,
    eps: float,
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    surrogate: str,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # spikes, bits, counts, and the mean and var used
    check_storage("batch_norm_lif", x=x)
    rows = _rows(x)  # [T*B, *space, C]
    channels = x.shape[1]
    if mean is None or var is None:
        mean, var = triton_statistics.batch_statistics(rows)
    else:
        mean, var = mean.clone(), var.clone()
    spikes = torch.empty_like(rows)
    bits = x.new_empty((*rows.shape[:-1], (channels + 7) // 8), dtype=torch.uint8)
    counts = x.new_zeros(x.shape[:2], dtype=torch.int32)
    if x.numel():
        steps = chunk_steps(time_steps)
        space = x.shape[2:].numel()
        block_r, block_j = _tile(space, channels, block_size(steps))
        blocks = triton.cdiv(space, block_r)
        images = x.shape[0] // time_steps
        batch_norm_lif_forward_kernel[(images * blocks, triton.cdiv(bits.shape[-1], block_j))](
            p_x=rows,
            p_weight=weight.contiguous(),
            p_bias=bias.contiguous(),
            p_mean=mean,
            p_var=var,
            p_residual=None if residual is None or residual_bits is not None else _rows(residual),
            p_residual_bits=None if residual_bits is None else residual_bits.contiguous(),
            p_spikes=spikes,
            p_bits=bits,
            p_counts=counts,
            T=time_steps,
            M=images * space,
            C=channels,
            space=space,
            blocks=blocks,
            eps=eps,
            inv_tau=1 / tau,
            v_threshold=v_threshold,
            rest=0.0 if v_reset is None else v_reset,
            STEPS=steps,
            SOFT_RESET=v_reset is None,
            DECAY_INPUT=decay_input,
            BLOCK_R=block_r,
            BLOCK_J=block_j,
            enable_fp_fusion=False,
        )
    return spikes.movedim(-1, 1), bits, counts, mean, var


def batch_norm_lif_backward(
    grad_spikes: Tensor,  # [T*B, C, *space]
    x: Tensor,  # [T*B, C, *space]
    weight: Tensor,  # vectors: [C] float32
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    residual: Tensor | None,  # [T*B, C, *space]
    residual_bits: Tensor | None,  # [T*B, *space, ceil(C / 8)]
    time_steps: int,
    eps: float,
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    surrogate: str,
    alpha: float,
    training: bool,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # grad_x, grad_weight, grad_bias, grad_residual or [0]
    rows = _rows(x)
    channels = x.shape[1]
    grad_x = torch.empty_like(rows)
    grad_residual = torch.empty_like(rows) if residual_grad else None
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    if x.numel():
        steps = chunk_steps(time_steps)
        chunks = triton.cdiv(time_steps, steps)
        m = rows.numel() // channels // time_steps
        block_r, block_j = _tile(m, channels, block_size(steps))
        blocks = triton.cdiv(m, block_r)
        parts = min(blocks, triton_statistics.PARTS)
        partial = x.new_empty((2, parts, channels), dtype=torch.float32)
        arguments = dict(  # noqa: C408  (what both passes take)
            p_grad_spikes=_rows(grad_spikes),
            p_x=rows,
            p_weight=weight.contiguous(),
            p_bias=bias.contiguous(),
            p_mean=mean,
            p_var=var,
            p_residual=None if residual is None or residual_bits is not None else _rows(residual),
            p_residual_bits=None if residual_bits is None else residual_bits.contiguous(),
            p_checkpoint=x.new_empty((chunks, m, channels), dtype=torch.float32) if chunks > 1 else None,
            T=time_steps,
            M=m,
            C=channels,
            blocks=blocks,
            eps=eps,
            inv_count=1 / (time_steps * m),
            inv_tau=1 / tau,
            v_threshold=v_threshold,
            rest=0.0 if v_reset is None else v_reset,
            alpha=alpha,
            STEPS=steps,
            SOFT_RESET=v_reset is None,
            DECAY_INPUT=decay_input,
            DETACH_RESET=detach_reset,
            SURROGATE=surrogate,
            TRAINING=training,
            BLOCK_R=block_r,
            BLOCK_J=block_j,
            enable_fp_fusion=False,
        )
        channel_blocks = triton.cdiv((channels + 7) // 8, block_j)
        batch_norm_lif_backward_kernel[(parts, channel_blocks)](
            p_partial=partial,
            p_grad_weight=None,
            p_grad_bias=None,
            p_grad_x=None,
            p_grad_residual=None,
            **arguments,
        )
        join_sums_kernel[(triton.cdiv(channels, 16),)](
            p_partial=partial,
            p_first=grad_bias,
            p_second=grad_weight,
            C=channels,
            parts=parts,
            BLOCK_P=64,
            BLOCK_C=16,
        )
        batch_norm_lif_backward_kernel[(blocks, channel_blocks)](
            p_partial=None,
            p_grad_weight=grad_weight,
            p_grad_bias=grad_bias,
            p_grad_x=grad_x,
            p_grad_residual=grad_residual,
            **arguments,
        )
    else:
        grad_weight.zero_()
        grad_bias.zero_()
    if grad_residual is None:
        return grad_x.movedim(-1, 1), grad_weight, grad_bias, x.new_empty(0)
    return grad_x.movedim(-1, 1), grad_weight, grad_bias, grad_residual.movedim(-1, 1)


def launches() -> Iterator[Launch]:
    default = (2.0, 0.5, 0.0, True, True, "piecewise_quadratic", 2.0)

    def both(label, steps, channels, dtype, neuron, residual=None, bits=None, training=True):
        x = meta(steps * 32, channels, 8, 8, dtype=dtype, channels_last=True)
        vector = meta(channels)
        given = (None, None) if training else (vector, vector)
        label = f"{short(dtype)} T={steps} C={channels} {label}"
        beside = (
            x if residual else None,
            meta(steps * 32, 8, 8, (channels + 7) // 8, dtype=torch.uint8) if bits else None,
        )
        options = (steps, 1e-5, *neuron)
        yield Launch(f"forward {label}", batch_norm_lif, (x, vector, vector, *given, *beside, *options))
        yield Launch(
            f"backward {label}",
            batch_norm_lif_backward,
            (x, x, vector, vector, vector, vector, *beside, *options, training, residual is not None),
        )

    for dtype in STORAGE:
        yield from both("plain", 4, 128, dtype, default)
    yield from both("residual", 4, 128, torch.bfloat16, default, residual=True)
    yield from both("residual bits", 4, 128, torch.bfloat16, default, residual=True, bits=True)
    for (steps, channels), surrogate in zip(((1, 3), (8, 64), (10, 100)), SURROGATES, strict=True):
        neuron = (2.0, 0.5, None, False, False, surrogate, 2.0)
        yield from both(
            f"{surrogate}, soft reset, eval",
            steps,
            channels,
            torch.float32,
            neuron,
            residual=True,
            training=False,
        )
