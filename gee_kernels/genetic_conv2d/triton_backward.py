"""Gradients of the codes, contracted in gene space: dL/dW exists as tiles in registers, or not at all.

    from_post[t, i, v] = sum_o dW[o, i, t] post[o, v, t]
    from_pre [t, o, u] = sum_i dW[o, i, t] pre[i, u, t]
    dW[o, i, t] = sum_r grad[r, o] x[r(t), i]      r: pixels of the result, r(t): the pixel that tap t reads

Plan `reconstruct` sums a tile of dW over rows and contracts it, once, with the codes of its channels. Plan
`gene` never forms dW: from_post[t] = x(t)^T (grad post[t]) and from_pre[t] = grad^T (x(t) pre[t]). Rows are
split over programs; each writes its own partial sum, and one reduction in a fixed order adds them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import block
from gee_kernels.genetic_conv2d.triton_host import channels_last, precision, tap_major
from gee_kernels.genetic_conv2d.triton_tiles import dot, load_code, load_pixels

PROGRAMS = 264  # to aim at: two for each of an H100's or H200's 132 multiprocessors
GENES = 32  # genes contracted at a time


@triton.jit
def read_pixels(
    rows,
    tap,
    n_rows,
    SH: tl.constexpr,  # height and width of x
    SW: tl.constexpr,
    DH: tl.constexpr,  # height and width of the result
    DW: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
):
    """The pixels of x that `tap` reads for `rows` of the result, and which of them exist."""
    pixel = rows % (DH * DW)
    height = pixel // DW * STRIDE - PADDING + tap // K
    width = pixel % DW * STRIDE - PADDING + tap % K
    inside = (rows < n_rows) & (height >= 0) & (height < SH) & (width >= 0) & (width < SW)
    return (rows // (DH * DW) * SH + height) * SW + width, inside


@triton.jit
def store_partial(p_out, total, part, tap, TAPS: tl.constexpr, C: tl.constexpr, GP: tl.constexpr, o_c, o_g):
    """total [BC, BG] into the partial sum `part` of [parts, TAPS, C, GP]."""
    row = (part.to(tl.int64) * TAPS + tap) * C + o_c
    tl.store(p_out + row[:, None] * GP + o_g[None, :], total, mask=(o_c < C)[:, None])


@triton.jit(do_not_specialize=["n_rows", "rows_per_split"])
def codes_reconstruct_kernel(
    p_grad,  # [N, DH, DW, C_OUT]
    p_x,  # [N, SH, SW, C_IN], or its bits
    p_pre,  # [taps, C_IN, GP]
    p_post,  # [taps, C_OUT, GP]
    p_from_post,  # [splits * tiles of C_OUT, taps, C_IN, GP] float32
    p_from_pre,  # [splits * tiles of C_IN, taps, C_OUT, GP] float32
    n_rows,  # N * DH * DW
    rows_per_split,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BITS: tl.constexpr,
    WANT_FROM_POST: tl.constexpr,
    WANT_FROM_PRE: tl.constexpr,
    PRECISION: tl.constexpr,
    CONTRACTION: tl.constexpr,
    GP: tl.constexpr,
    BG: tl.constexpr,
    BI: tl.constexpr,
    BO: tl.constexpr,
    BM: tl.constexpr,
):
    """dW[i, o] = x(t)^T grad over a split's rows, then dW post into from_post and dW^T pre into from_pre."""
    TILES_IN: tl.constexpr = (C_IN + BI - 1) // BI
    TILES_OUT: tl.constexpr = (C_OUT + BO - 1) // BO
    dtype: tl.constexpr = p_grad.dtype.element_ty
    tile_in, tile_out = tl.program_id(0) % TILES_IN, tl.program_id(0) // TILES_IN % TILES_OUT
    tap, split = tl.program_id(0) // (TILES_IN * TILES_OUT), tl.program_id(1)
    total = tl.zeros([BI, BO], tl.float32)
    start = split * rows_per_split
    for r in range(start, tl.minimum(start + rows_per_split, n_rows), BM):
        rows = r + tl.arange(0, BM)
        pixels, inside = read_pixels(rows, tap, n_rows, SH, SW, DH, DW, K, STRIDE, PADDING)
        x = load_pixels(p_x, pixels, inside, tile_in * BI, C_IN, BI, BITS, dtype)
        grad = load_pixels(p_grad, rows, rows < n_rows, tile_out * BO, C_OUT, BO, False, dtype)
        total = dot(tl.trans(x), grad, total, PRECISION)

    o_in = tile_in * BI + tl.arange(0, BI)
    o_out = tile_out * BO + tl.arange(0, BO)
    for gene in range(0, GP, BG):
        o_g = gene + tl.arange(0, BG)
        if WANT_FROM_POST:
            post = load_code(p_post, tap, tile_out * BO, gene, C_OUT, BO, GP, BG).to(tl.float32)
            from_post = dot(total, post, tl.zeros([BI, BG], tl.float32), CONTRACTION)
            store_partial(
                p_from_post, from_post, split * TILES_OUT + tile_out, tap, K * K, C_IN, GP, o_in, o_g
            )
        if WANT_FROM_PRE:
            pre = load_code(p_pre, tap, tile_in * BI, gene, C_IN, BI, GP, BG).to(tl.float32)
            from_pre = dot(tl.trans(total), pre, tl.zeros([BO, BG], tl.float32), CONTRACTION)
            store_partial(p_from_pre, from_pre, split * TILES_IN + tile_in, tap, K * K, C_OUT, GP, o_out, o_g)


@triton.jit(do_not_specialize=["n_rows", "rows_per_split", "channels"])
def codes_gene_kernel(
    p_one,  # pixels x C_ONE: x when ONE_IS_X, else grad
    p_other,  # pixels x C_OTHER: the other
    p_code,  # [taps, C_ONE, GP]
    p_out,  # [splits, taps, C_OTHER, GP] float32
    n_rows,  # N * DH * DW
    rows_per_split,
    channels,  # C_ONE again, at run time: a loop of known length is unrolled until registers spill
    C_ONE: tl.constexpr,
    C_OTHER: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BITS: tl.constexpr,
    ONE_IS_X: tl.constexpr,
    PRECISION: tl.constexpr,
    GP: tl.constexpr,
    BG: tl.constexpr,
    BC: tl.constexpr,
    BO: tl.constexpr,
    BM: tl.constexpr,
):
    """out[t] = other^T (one code[t]): the inner product goes to gene space, and stays in registers."""
    TILES: tl.constexpr = (C_OTHER + BO - 1) // BO
    CHUNKS: tl.constexpr = GP // BG
    dtype: tl.constexpr = p_code.dtype.element_ty
    chunk, tile = tl.program_id(0) % CHUNKS, tl.program_id(0) // CHUNKS % TILES
    tap, split = tl.program_id(0) // (CHUNKS * TILES), tl.program_id(1)
    total = tl.zeros([BO, BG], tl.float32)
    start = split * rows_per_split
    for r in range(start, tl.minimum(start + rows_per_split, n_rows), BM):
        rows = r + tl.arange(0, BM)
        pixels, inside = read_pixels(rows, tap, n_rows, SH, SW, DH, DW, K, STRIDE, PADDING)
        z = tl.zeros([BM, BG], tl.float32)
        for c in range(0, channels, BC):
            code = load_code(p_code, tap, c, chunk * BG, C_ONE, BC, GP, BG)
            if ONE_IS_X:
                one = load_pixels(p_one, pixels, inside, c, C_ONE, BC, BITS, dtype)
            else:
                one = load_pixels(p_one, rows, rows < n_rows, c, C_ONE, BC, False, dtype)
            z = dot(one, code, z, PRECISION)
        if ONE_IS_X:
            other = load_pixels(p_other, rows, rows < n_rows, tile * BO, C_OTHER, BO, False, dtype)
        else:
            other = load_pixels(p_other, pixels, inside, tile * BO, C_OTHER, BO, BITS, dtype)
        total = dot(tl.trans(other), z.to(dtype), total, PRECISION)
    o_c, o_g = tile * BO + tl.arange(0, BO), chunk * BG + tl.arange(0, BG)
    store_partial(p_out, total, split, tap, K * K, C_OTHER, GP, o_c, o_g)


def _splits(rows: int, tiles: int, block_rows: int) -> tuple[int, int]:
    """Into how many parts, of `tiles` programs each, the rows are split to fill the chip; rows per part."""
    splits = max(1, min(triton.cdiv(PROGRAMS, tiles), rows // (8 * block_rows)))
    per_split = triton.cdiv(triton.cdiv(rows, splits), block_rows) * block_rows
    return triton.cdiv(rows, per_split), per_split


def _sum(partial: Tensor, genes: int) -> Tensor:
    # [parts, taps, C, GP] -> [taps, C, genes], added in a fixed order
    return partial.sum(0)[..., :genes].contiguous()


def contract(
    grad: Tensor,  # [N, C_out, H', W'], any strides
    x: Tensor | None,  # [N, C_in, H, W]
    bits: Tensor | None,  # [N, H, W, ceil(C_in / 8)], one of x and bits
    pre: Tensor,
    post: Tensor,
    stride: int,
    padding: int,
    want_from_post: bool,
    want_from_pre: bool,
    plan: str,
) -> tuple[
    Tensor, Tensor
]:  # from_post [K*K, C_in, g], from_pre [K*K, C_out, g] float32; [0] where not wanted
    n, c_out, out_height, out_width = grad.shape
    c_in, genes, kernel = pre.shape[0], pre.shape[1], pre.shape[-1]
    rows, taps = n * out_height * out_width, kernel * kernel
    wanted = (want_from_post, want_from_pre)
    shapes = ((taps, c_in, genes), (taps, c_out, genes))
    if rows == 0:
        from_post, from_pre = (
            grad.new_zeros(s if w else 0, dtype=torch.float32) for s, w in zip(shapes, wanted, strict=True)
        )
        return from_post, from_pre
    if bits is not None:
        height, width = bits.shape[1:3]
        source = bits.contiguous()
    else:
        assert x is not None  # op.py gives one of the two
        height, width = x.shape[2:]
        source = channels_last(x)
    wide = grad.dtype == torch.float32
    padded = triton.cdiv(genes, GENES) * GENES
    grad = channels_last(grad)
    geometry = {
        "SH": height,
        "SW": width,
        "DH": out_height,
        "DW": out_width,
        "K": kernel,
        "STRIDE": stride,
        "PADDING": padding,
        "BITS": bits is not None,
        "PRECISION": precision(grad.dtype),
        "GP": padded,
        "BG": GENES,
        "BM": 32 if wide else 64,
    }
    codes = tap_major(pre, padded), tap_major(post, padded)
    operands = grad, source, *codes
    if plan == "gene":
        parts = _contract_gene(*operands, rows, wanted, geometry, wide)
    else:
        parts = _contract_reconstruct(*operands, rows, wanted, geometry, wide)
    from_post, from_pre = (
        _sum(p, genes) if w else grad.new_empty(0, dtype=torch.float32)
        for p, w in zip(parts, wanted, strict=True)
    )
    return from_post, from_pre


def _contract_reconstruct(grad, source, pre, post, rows, wanted, geometry, wide) -> tuple[Tensor, Tensor]:
    (taps, c_in, padded), c_out = pre.shape, post.shape[1]
    limit = 32 if wide else 128
    block_in, block_out = max(16, block(c_in, limit)), max(16, block(c_out, limit))
    tiles_in, tiles_out = triton.cdiv(c_in, block_in), triton.cdiv(c_out, block_out)
    splits, rows_per_split = _splits(rows, taps * tiles_in * tiles_out, geometry["BM"])
    from_post = grad.new_empty(
        (splits * tiles_out if wanted[0] else 0, taps, c_in, padded), dtype=torch.float32
    )
    from_pre = grad.new_empty(
        (splits * tiles_in if wanted[1] else 0, taps, c_out, padded), dtype=torch.float32
    )
    codes_reconstruct_kernel[taps * tiles_in * tiles_out, splits](
        p_grad=grad,
        p_x=source,
        p_pre=pre,
        p_post=post,
        p_from_post=from_post,
        p_from_pre=from_pre,
        n_rows=rows,
        rows_per_split=rows_per_split,
        C_IN=c_in,
        C_OUT=c_out,
        WANT_FROM_POST=wanted[0],
        WANT_FROM_PRE=wanted[1],
        CONTRACTION=geometry["PRECISION"] if wide else "tf32",  # dW keeps float32's range
        BI=block_in,
        BO=block_out,
        **geometry,
        num_warps=8 if block_in * block_out > 64 * 64 else 4,
        num_stages=3,
        enable_fp_fusion=True,
    )
    return from_post, from_pre


def _contract_gene(grad, source, pre, post, rows, wanted, geometry, wide) -> tuple[Tensor, Tensor]:
    (taps, c_in, padded), c_out = pre.shape, post.shape[1]
    found = []
    for one_is_x, want, one, other, code in (
        (False, wanted[0], grad, source, post),
        (True, wanted[1], source, grad, pre),
    ):
        c_one, c_other = (c_in, c_out) if one_is_x else (c_out, c_in)
        block_other = max(16, block(c_other, 32 if wide else 256))
        tiles = taps * triton.cdiv(c_other, block_other) * (padded // GENES)
        splits, rows_per_split = _splits(rows, tiles, geometry["BM"])
        out = grad.new_empty((splits if want else 0, taps, c_other, padded), dtype=torch.float32)
        if want:
            codes_gene_kernel[tiles, splits](
                p_one=one,
                p_other=other,
                p_code=code,
                p_out=out,
                n_rows=rows,
                rows_per_split=rows_per_split,
                channels=c_one,
                C_ONE=c_one,
                C_OTHER=c_other,
                ONE_IS_X=one_is_x,
                BC=max(16, block(c_one, 32 if wide else 64)),
                BO=block_other,
                **geometry,
                num_warps=8 if block_other > 64 else 4,
                num_stages=2,
                enable_fp_fusion=True,
            )
        found.append(out)
    return found[0], found[1]
