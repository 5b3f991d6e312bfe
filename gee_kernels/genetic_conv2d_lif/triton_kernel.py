"""A whole spiking layer in one kernel: convolution with decoded weights, folded norm, residual and LIF.

    y_t = genetic_conv2d(x_t, ...) * scale + shift [+ residual_t],   spikes = lif(y over T)

A tile holds up to four steps of its pixels as rows of one matrix product, so that a decoded weight serves all
of them; the steps then pass through the neuron in order, the membrane in registers. y is never written.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import Launch, check_storage, meta, short
from gee_kernels.genetic_conv2d.triton_host import (
    block_channels,
    channels_last,
    check_pixels,
    empty_images,
    gene_chunks,
    half_decoded,
    padded_genes,
    precision,
    tap_major,
)
from gee_kernels.genetic_conv2d.triton_tiles import convolve
from gee_kernels.lif.triton_kernel import charge, fire, reset

TENSOR_CORE_KERNELS = ("genetic_conv2d_lif_kernel",)


@triton.jit(do_not_specialize=["batch", "time_steps", "channels", "groups"])
def genetic_conv2d_lif_kernel(
    p_x,  # [T, B, SH, SW, C1], or bits [T, B, SH, SW, ceil(C1 / 8)]
    p_first,  # [taps, C1, gp]
    p_second,  # [taps, C2, gp]
    p_scale,  # [C2] float32
    p_shift,  # [C2] float32
    p_residual,  # [T, B, DH, DW, C2], or None
    p_spikes,  # [T, B, DH, DW, C2]
    p_bits,  # [T, B, DH, DW, ceil(C2 / 8)]
    p_counts,  # [T, B, C2] int32, zeros
    batch,
    time_steps,
    channels,  # C1, and GROUPS
    groups,
    inv_tau,
    v_threshold,
    rest,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BITS: tl.constexpr,
    GENE: tl.constexpr,
    GROUPS: tl.constexpr,
    G0: tl.constexpr,
    G1: tl.constexpr,
    G2: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFT_RESET: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    STEPS: tl.constexpr,  # of a tile; its rows are [STEPS, IMAGES, PIXELS]
    IMAGES: tl.constexpr,
    PIXELS: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """spikes, their bits and their counts of all T steps of some pixels of some images."""
    COLUMNS: tl.constexpr = (C2 + BN - 1) // BN
    TILES: tl.constexpr = (DH * DW + PIXELS - 1) // PIXELS
    SITES: tl.constexpr = IMAGES * PIXELS
    BYTES: tl.constexpr = (C2 + 7) // 8
    dtype: tl.constexpr = p_spikes.dtype.element_ty
    column = tl.program_id(0) % COLUMNS * BN
    tile = tl.program_id(0) // COLUMNS % TILES
    group = tl.program_id(0) // (COLUMNS * TILES)

    rows = tl.arange(0, STEPS * SITES)
    row_image = group * IMAGES + rows // PIXELS % IMAGES
    row_pixel = tile * PIXELS + rows % PIXELS
    row_exists = (row_image < batch) & (row_pixel < DH * DW)

    sites = tl.arange(0, SITES)
    image, pixel = group * IMAGES + sites // PIXELS, tile * PIXELS + sites % PIXELS
    exists = (image < batch) & (pixel < DH * DW)
    o_c, o_byte = column + tl.arange(0, BN), column // 8 + tl.arange(0, BN // 8)
    o_image = group * IMAGES + tl.arange(0, IMAGES)
    mask = exists[:, None] & (o_c < C2)[None, :]
    scale = tl.load(p_scale + o_c, mask=o_c < C2, other=0.0)[None, :]
    shift = tl.load(p_shift + o_c, mask=o_c < C2, other=0.0)[None, :]
    order = tl.arange(0, STEPS)[:, None, None]
    weights = 1 << tl.arange(0, 8)

    v = tl.zeros([SITES, BN], tl.float32) + rest
    for start in range(0, time_steps, STEPS):
        step = start + rows // SITES
        y = convolve(
            p_x, p_first, p_second, step * batch + row_image, row_pixel // DW, row_pixel % DW,
            row_exists & (step < time_steps), 0, 0, column, channels, groups,
            C1, C2, SH, SW, K, STRIDE, PADDING, False, BITS, GENE, GROUPS, G0, G1, G2, PRECISION,
            STEPS * SITES, BN, BC,
        )  # fmt: skip
        y = tl.reshape(y, [STEPS, SITES, BN])
        for k in tl.static_range(STEPS):
            if start + k < time_steps:
                current = tl.sum(tl.where(order == k, y, 0.0), axis=0) * scale + shift
                o_site = ((start + k) * batch + image).to(tl.int64) * (DH * DW) + pixel
                if p_residual is not None:
                    p_tile = p_residual + o_site[:, None] * C2 + o_c[None, :]
                    current += tl.load(p_tile, mask=mask, other=0.0).to(tl.float32)
                h = charge(current, v, inv_tau, rest, DECAY_INPUT)
                s = fire(h, v_threshold)
                v = reset(h, s, v_threshold, rest, SOFT_RESET)
                s = tl.where(mask, s, 0.0)
                tl.store(p_spikes + o_site[:, None] * C2 + o_c[None, :], s.to(dtype), mask=mask)
                fired = s.to(tl.int32)
                bits = tl.sum(tl.reshape(fired, [SITES, BN // 8, 8]) * weights[None, None, :], axis=2)
                p_tile = p_bits + o_site[:, None] * BYTES + o_byte[None, :]
                tl.store(p_tile, bits.to(tl.uint8), mask=exists[:, None] & (o_byte < BYTES)[None, :])
                counts = tl.sum(tl.reshape(fired, [IMAGES, PIXELS, BN]), axis=1)
                # Integers add up to the same in any order.
                p_tile = p_counts + ((start + k) * batch + o_image)[:, None].to(tl.int64) * C2 + o_c[None, :]
                tl.atomic_add(
                    p_tile, counts, mask=(o_image < batch)[:, None] & (o_c < C2)[None, :], sem="relaxed"
                )


def _tile(dtype: torch.dtype, plan: str, time_steps: int, pixels: int) -> dict[str, int]:
    """STEPS x IMAGES x PIXELS rows, and columns: many rows where they share the decoding of W."""
    rows = 64 if plan == "gene" or dtype == torch.float32 else 128
    columns = 32 if dtype == torch.float32 else 64
    if triton.knobs.runtime.interpret:
        rows, columns = 32, 32
    steps = min(4, triton.next_power_of_2(time_steps))
    per_image = min(rows // steps, triton.next_power_of_2(pixels))
    return {"STEPS": steps, "IMAGES": rows // steps // per_image, "PIXELS": per_image, "BN": columns}


def genetic_conv2d_lif(
    x: Tensor,
    pre: Tensor,
    interaction: Tensor,
    post: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    bits: Tensor | None,
    stride: int,
    padding: int,
    time_steps: int,
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    plan: str,
    event_below: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_storage("genetic_conv2d_lif", x=x)
    check_pixels("genetic_conv2d_lif", x=x)
    (c_in, genes, kernel), c_out = pre.shape[:3], post.shape[0]
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    spikes = empty_images(x, x.shape[0], c_out, height, width)
    out_bits = x.new_empty((x.shape[0], height, width, (c_out + 7) // 8), dtype=torch.uint8)
    counts = x.new_zeros((x.shape[0], c_out), dtype=torch.int32)
    if spikes.numel() == 0:
        return spikes, out_bits, counts
    chunks = gene_chunks(genes, plan, x.dtype)
    padded = padded_genes(chunks)
    tile = _tile(x.dtype, plan, time_steps, height * width)
    batch = x.shape[0] // time_steps
    tiles = triton.cdiv(height * width, tile["PIXELS"]) * triton.cdiv(batch, tile["IMAGES"])
    genetic_conv2d_lif_kernel[(tiles * triton.cdiv(c_out, tile["BN"]),)](
        p_x=channels_last(x) if bits is None else bits.contiguous(),
        p_first=tap_major(pre, padded),
        p_second=half_decoded(interaction, post, padded),
        p_scale=scale.float().contiguous(),
        p_shift=shift.float().contiguous(),
        p_residual=None if residual is None else channels_last(residual),
        p_spikes=spikes,
        p_bits=out_bits,
        p_counts=counts,
        batch=batch,
        time_steps=time_steps,
        channels=c_in,
        groups=chunks["GROUPS"],
        inv_tau=1 / tau,
        v_threshold=v_threshold,
        rest=0.0 if v_reset is None else v_reset,
        C1=c_in,
        C2=c_out,
        SH=x.shape[2],
        SW=x.shape[3],
        DH=height,
        DW=width,
        K=kernel,
        STRIDE=stride,
        PADDING=padding,
        BITS=bits is not None,
        GENE=plan == "gene",
        PRECISION=precision(x.dtype),
        SOFT_RESET=v_reset is None,
        DECAY_INPUT=decay_input,
        BC=block_channels(c_in, x.dtype),
        **tile,
        **chunks,
        num_warps=8,
        num_stages=2,
        enable_fp_fusion=False,
    )
    return spikes, out_bits, counts


def launches() -> Iterator[Launch]:
    neuron = (2.0, 0.5, 0.0, True)
    for dtype, plan, time_steps in (
        (torch.bfloat16, "reconstruct", 4),
        (torch.bfloat16, "gene", 4),
        (torch.float32, "reconstruct", 4),
    ):
        codes = (
            meta(256, 100, 3, 3, dtype=dtype),
            meta(100, 100, dtype=dtype),
            meta(512, 100, 3, 3, dtype=dtype),
        )
        x = meta(128, 256, 16, 16, dtype=dtype, channels_last=True)
        bits = meta(128, 16, 16, 32, dtype=torch.uint8)
        residual = meta(128, 512, 8, 8, dtype=dtype, channels_last=True)
        arguments = (x, *codes, meta(512), meta(512), residual, bits, 2, 1, time_steps, *neuron, plan, -1.0)
        yield Launch(f"{short(dtype)} {plan} T={time_steps}", genetic_conv2d_lif, arguments)
