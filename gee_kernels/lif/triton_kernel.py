"""Leaky integrate-and-fire on the GPU: all T steps of a block of neurons in one program.

Time is the outermost dimension in memory: step t of neuron o lies at t * n + o. Steps are unrolled in chunks
of at most eight, so that the loads of a chunk are in flight together and backward holds its H in registers.
tau enters as 1 / tau, a multiplication, as in PyTorch's own CUDA kernels.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import STORAGE, Launch, check_storage, meta, short
from gee_kernels.surrogate import SURROGATES

_CHUNK = 8
_TILE = 2048  # values of x a program holds at once


@triton.jit
def charge(b_x, b_v, inv_tau, rest, DECAY_INPUT: tl.constexpr):
    """H_t = V + (x - (V - rest)) / tau, or V - (V - rest) / tau + x"""
    return b_v + (b_x - (b_v - rest)) * inv_tau if DECAY_INPUT else b_v - (b_v - rest) * inv_tau + b_x


@triton.jit
def fire(b_h, v_threshold):
    """s_t = 1[H_t >= v_threshold]"""
    return (b_h - v_threshold >= 0).to(tl.float32)


@triton.jit
def reset(b_h, b_s, v_threshold, rest, SOFT_RESET: tl.constexpr):
    """V_t = s * rest + (1 - s) * H, or H - s * v_threshold"""
    return b_h - b_s * v_threshold if SOFT_RESET else b_s * rest + (1 - b_s) * b_h


@triton.jit
def surrogate_derivative(b_d, alpha, SURROGATE: tl.constexpr):
    """ds/dH at d = H - v_threshold, see gee_kernels/surrogate.py"""
    if SURROGATE == "piecewise_quadratic":
        b_slope = alpha - alpha * alpha * tl.abs(b_d)
        b_slope = tl.where(b_slope < 0, 0.0, b_slope)
    elif SURROGATE == "atan":
        b_u = 1.5707963267948966 * alpha * b_d
        b_slope = alpha * 0.5 / (1 + b_u * b_u)
    else:
        tl.static_assert(SURROGATE == "sigmoid")
        b_u = tl.sigmoid(alpha * b_d)
        b_slope = alpha * b_u * (1 - b_u)
    return b_slope


@triton.jit
def step_backward(
    b_gs,  # dL/ds_t
    b_gv,  # dL/dV_t
    b_h,  # H_t
    inv_tau,
    v_threshold,
    rest,
    alpha,
    SOFT_RESET: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    SURROGATE: tl.constexpr,
):
    """dL/dx_t and dL/dV_{t-1}"""
    b_d = b_h - v_threshold
    if not DETACH_RESET:
        if SOFT_RESET:
            b_gs -= b_gv * v_threshold
        else:
            b_gs += b_gv * (rest - b_h)
    b_gh = b_gs * surrogate_derivative(b_d, alpha, SURROGATE)
    if SOFT_RESET:
        b_gh += b_gv
    else:
        b_gh += b_gv * (1 - (b_d >= 0).to(tl.float32))
    return b_gh * inv_tau if DECAY_INPUT else b_gh, b_gh - b_gh * inv_tau


@triton.jit(do_not_specialize=["T"])
def lif_forward_kernel(
    p_x,  # [T, n]
    p_start,  # [n] float32, or None: rest
    p_spikes,  # [T, n]
    p_last,  # [n] float32, or None
    n,
    T,
    inv_tau,
    v_threshold,
    rest,
    STEPS: tl.constexpr,
    SOFT_RESET: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """s_t and V_T from x_t and V_0"""
    o_n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_n = o_n < n
    b_v = tl.zeros((BLOCK,), tl.float32) + rest
    if p_start is not None:
        b_v = tl.load(p_start + o_n, mask=m_n, other=0)
    for first in range(0, T, STEPS):
        for k in tl.static_range(STEPS):
            t = first + k
            o_x = t.to(tl.int64) * n + o_n
            m_t = tl.full((BLOCK,), t, tl.int32) < T
            m_x = m_n & m_t
            b_h = charge(
                tl.load(p_x + o_x, mask=m_x, other=0).to(tl.float32), b_v, inv_tau, rest, DECAY_INPUT
            )
            b_s = fire(b_h, v_threshold)
            b_v = tl.where(m_t, reset(b_h, b_s, v_threshold, rest, SOFT_RESET), b_v)
            tl.store(p_spikes + o_x, b_s.to(p_spikes.dtype.element_ty), mask=m_x)
    if p_last is not None:
        tl.store(p_last + o_n, b_v, mask=m_n)


@triton.jit(do_not_specialize=["T"])
def lif_backward_kernel(
    p_grad_spikes,  # [T, n], or None: zeros
    p_grad_last,  # [n] float32, or None: zeros
    p_x,  # [T, n]
    p_start,  # [n] float32, or None: rest
    p_grad_x,  # [T, n]
    p_grad_start,  # [n] float32, or None
    p_checkpoint,  # [chunks, n] float32, V before each chunk; None where one chunk is all
    n,
    T,
    inv_tau,
    v_threshold,
    rest,
    alpha,
    STEPS: tl.constexpr,
    SOFT_RESET: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    SURROGATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dL/dx_t and dL/dV_0 from dL/ds_t and dL/dV_T; H_t is recomputed chunk by chunk"""
    o_n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_n = o_n < n
    b_v = tl.zeros((BLOCK,), tl.float32) + rest
    if p_start is not None:
        b_v = tl.load(p_start + o_n, mask=m_n, other=0)
    last = (tl.cdiv(T, STEPS) - 1) * STEPS  # first step of the last chunk
    if p_checkpoint is not None:
        tl.store(p_checkpoint + o_n, b_v, mask=m_n)
        for first in range(0, last, STEPS):
            for k in tl.static_range(STEPS):
                t = first + k
                o_x = t.to(tl.int64) * n + o_n
                b_x = tl.load(p_x + o_x, mask=m_n, other=0).to(tl.float32)
                b_h = charge(b_x, b_v, inv_tau, rest, DECAY_INPUT)
                b_v = reset(b_h, fire(b_h, v_threshold), v_threshold, rest, SOFT_RESET)
            chunk = first // STEPS + 1
            tl.store(p_checkpoint + chunk.to(tl.int64) * n + o_n, b_v, mask=m_n)
        tl.debug_barrier()  # what a thread stored, another may load
    b_gv = tl.zeros((BLOCK,), tl.float32)
    if p_grad_last is not None:
        b_gv = tl.load(p_grad_last + o_n, mask=m_n, other=0)
    for back in range(0, T, STEPS):
        first = last - back
        if p_checkpoint is not None:
            chunk = first // STEPS
            b_v = tl.load(p_checkpoint + chunk.to(tl.int64) * n + o_n, mask=m_n, other=0)
        h = ()
        for k in tl.static_range(STEPS):
            t = first + k
            b_x = tl.load(
                p_x + t.to(tl.int64) * n + o_n, mask=m_n & (tl.full((BLOCK,), t, tl.int32) < T), other=0
            ).to(tl.float32)
            b_h = charge(b_x, b_v, inv_tau, rest, DECAY_INPUT)
            b_v = reset(b_h, fire(b_h, v_threshold), v_threshold, rest, SOFT_RESET)
            h = h + (b_h,)  # type: ignore[assignment]  # noqa: RUF005  (Triton: no starred tuples)
        for k in tl.static_range(STEPS - 1, -1, -1):
            t = first + k
            o_x = t.to(tl.int64) * n + o_n
            m_t = tl.full((BLOCK,), t, tl.int32) < T
            m_x = m_n & m_t
            b_gs = tl.zeros((BLOCK,), tl.float32)
            if p_grad_spikes is not None:
                b_gs = tl.load(p_grad_spikes + o_x, mask=m_x, other=0).to(tl.float32)
            b_gx, b_gv_before = step_backward(
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
            b_gv = tl.where(m_t, b_gv_before, b_gv)
            tl.store(p_grad_x + o_x, b_gx.to(p_grad_x.dtype.element_ty), mask=m_x)
    if p_grad_start is not None:
        tl.store(p_grad_start + o_n, b_gv, mask=m_n)


def chunk_steps(time_steps: int) -> int:
    """Steps per chunk: at most _CHUNK, and as even as can be."""
    return triton.cdiv(time_steps, triton.cdiv(time_steps, _CHUNK))


def block_size(steps: int) -> int:
    """Neurons per program: as many as keep the values of a chunk in registers."""
    return min(_TILE // triton.next_power_of_2(steps), 512)


def _time_outermost(x: Tensor) -> Tensor:
    """x, or a copy in which the n values of each step lie densely behind those of the step before."""
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(x.shape[1:], x.stride()[1:], strict=True) if n != 1):
        if stride != expected:
            return x.contiguous()
        expected *= size
    return x if x.shape[0] == 1 or x.stride(0) == expected else x.contiguous()


def _like(x: Tensor, target: Tensor) -> Tensor:
    """The values of x in the layout of the dense tensor `target`."""
    return x if x.stride() == target.stride() else torch.empty_like(target, dtype=x.dtype).copy_(x)


def lif(
    x: Tensor,  # [T, ...]
    voltage: Tensor | None,  # [...] float32
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    surrogate: str,
    alpha: float,
    return_voltage: bool,
) -> tuple[Tensor, Tensor]:  # spikes [T, ...], voltage [...] or [0]
    check_storage("lif", x=x)
    rows = _time_outermost(x)
    spikes = torch.empty_like(rows)
    last = torch.empty_like(rows[0], dtype=torch.float32) if return_voltage else None
    n, steps = rows[0].numel(), chunk_steps(x.shape[0])
    if n:
        lif_forward_kernel[(triton.cdiv(n, block_size(steps)),)](
            p_x=rows,
            p_start=None if voltage is None else _like(voltage, rows[0]),
            p_spikes=spikes,
            p_last=last,
            n=n,
            T=x.shape[0],
            inv_tau=1 / tau,
            v_threshold=v_threshold,
            rest=0.0 if v_reset is None else v_reset,
            STEPS=steps,
            SOFT_RESET=v_reset is None,
            DECAY_INPUT=decay_input,
            BLOCK=block_size(steps),
            enable_fp_fusion=False,
        )
    if last is None:
        last = x.new_empty(0, dtype=torch.float32)
    elif rows is not x:
        last = _like(last, torch.empty_like(x[0], dtype=torch.float32))
    return spikes if rows is x else _like(spikes, torch.empty_like(x)), last


def lif_backward(
    grad_spikes: Tensor | None,  # [T, ...]
    grad_voltage: Tensor | None,  # [...] float32
    x: Tensor,  # [T, ...]
    voltage: Tensor | None,  # [...] float32
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    surrogate: str,
    alpha: float,
) -> tuple[Tensor, Tensor]:  # grad_x [T, ...], gradient to the start voltage [...] or [0]
    rows = _time_outermost(x)
    grad_x = torch.empty_like(rows)
    grad_start = None if voltage is None else torch.empty_like(rows[0], dtype=torch.float32)
    n, steps = rows[0].numel(), chunk_steps(x.shape[0])
    chunks = triton.cdiv(x.shape[0], steps)
    if n:
        lif_backward_kernel[(triton.cdiv(n, block_size(steps)),)](
            p_grad_spikes=None if grad_spikes is None else _like(grad_spikes, rows),
            p_grad_last=None if grad_voltage is None else _like(grad_voltage, rows[0]),
            p_x=rows,
            p_start=None if voltage is None else _like(voltage, rows[0]),
            p_grad_x=grad_x,
            p_grad_start=grad_start,
            p_checkpoint=x.new_empty((chunks, n), dtype=torch.float32) if chunks > 1 else None,
            n=n,
            T=x.shape[0],
            inv_tau=1 / tau,
            v_threshold=v_threshold,
            rest=0.0 if v_reset is None else v_reset,
            alpha=alpha,
            STEPS=steps,
            SOFT_RESET=v_reset is None,
            DECAY_INPUT=decay_input,
            DETACH_RESET=detach_reset,
            SURROGATE=surrogate,
            BLOCK=block_size(steps),
            enable_fp_fusion=False,
        )
    if grad_start is None:
        grad_start = x.new_empty(0, dtype=torch.float32)
    elif rows is not x:
        grad_start = _like(grad_start, torch.empty_like(x[0], dtype=torch.float32))
    return grad_x if rows is x else _like(grad_x, torch.empty_like(x)), grad_start


def launches() -> Iterator[Launch]:
    default = (2.0, 0.5, 0.0, True, True, "piecewise_quadratic", 2.0)
    others = [(2.0, 0.5, None, False, False, surrogate, 2.0) for surrogate in SURROGATES]
    for dtype in STORAGE:
        for steps in (4, 8) if dtype == torch.bfloat16 else (4,):
            x = meta(steps, 32, 128, 16, 16, dtype=dtype)
            label = f"{short(dtype)} T={steps}"
            yield Launch(f"forward {label}", lif, (x, None, *default, False))
            yield Launch(f"backward {label}", lif_backward, (x, None, x, None, *default))
    voltage = meta(1000)
    for steps, neuron in zip((1, 5, 16), others, strict=True):
        x = meta(steps, 1000)
        label = f"f32 T={steps} {neuron[-2]}, soft reset, voltages, odd size"
        yield Launch(f"forward {label}", lif, (x, voltage, *neuron, True))
        yield Launch(f"backward {label}", lif_backward, (x, voltage, x, voltage, *neuron))
