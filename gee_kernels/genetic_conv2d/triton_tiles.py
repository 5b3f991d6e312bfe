"""What every Triton kernel of the genetic convolution shares: where a row reads, and one tile of the product.

A convolution and its transpose are the same gather. A *row* is one pixel of the result; at step s of its taps
(along height, and likewise along width) it reads the source pixel `origin + SIGN s` and the codes of tap
`first + STEP s`:

    forward       origin = row * stride - padding              SIGN = +1   STEP = 1        first = 0
    transposed    origin = (row + padding - first) / stride    SIGN = -1   STEP = stride
                  first = (row + padding) % stride

Transposed rows are taken class by class of (row % stride), so that all rows of a tile share their taps and
none is visited in vain. Channels lie innermost everywhere; pixels are counted in 32 bits, addresses in 64.

The codes come as two factors, padded with zero genes to gp = GROUPS * (G0 + G1 + G2):

    first   [taps, C1, gp]    pre                   (transposed: the half-decoded interaction x post)
    second  [taps, C2, gp]    interaction x post    (transposed: pre)

Chunks G0 > G1 > G2 are powers of two (a tensor core's tile must be), so 100 genes cost
64 + 32 + 16 = 112, not 128.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """total + a b in float32. (Triton's interpreter multiplies bfloat16 as if its bits were integers.)"""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def result_pixels(
    rows,  # [BM] pixels of this class of the result, row-major over (image, height, width)
    pixel_class,
    DH: tl.constexpr,  # height and width of the result
    DW: tl.constexpr,
    STRIDE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """image, height and width of the class's pixels `rows`; their class's offsets."""
    if TRANSPOSED:
        CLASSES_W: tl.constexpr = STRIDE if STRIDE < DW else DW  # no class is empty
        class_h, class_w = pixel_class // CLASSES_W, pixel_class % CLASSES_W
        height = (DH - class_h + STRIDE - 1) // STRIDE
        width = (DW - class_w + STRIDE - 1) // STRIDE
    else:
        class_h, class_w = 0, 0
        height, width = DH, DW
    pixel = rows % (height * width)
    return rows // (height * width), pixel // width, pixel % width, class_h, class_w


@triton.jit
def load_pixels(
    p_x,  # [pixels, C] values, or [pixels, ceil(C / 8)] uint8 when BITS
    pixels,  # [BM]
    valid,  # [BM]
    start,  # first channel
    C: tl.constexpr,
    BC: tl.constexpr,
    BITS: tl.constexpr,
    dtype: tl.constexpr,
):
    """[BM, BC]: channels start.. of some pixels, zeros outside; bits are unpacked in registers."""
    if BITS:
        BYTES: tl.constexpr = (C + 7) // 8
        o_byte = start // 8 + tl.arange(0, BC // 8)
        mask = valid[:, None] & (o_byte < BYTES)[None, :]
        packed = tl.load(p_x + pixels.to(tl.int64)[:, None] * BYTES + o_byte[None, :], mask=mask, other=0)
        shift = tl.arange(0, 8).to(tl.uint8)
        spikes = (packed[:, :, None] >> shift[None, None, :]) & 1
        x = tl.where(tl.reshape(spikes, [pixels.shape[0], BC]) != 0, 1.0, 0.0)
    else:
        o_c = start + tl.arange(0, BC)
        mask = valid[:, None] & (o_c < C)[None, :]
        x = tl.load(p_x + pixels.to(tl.int64)[:, None] * C + o_c[None, :], mask=mask, other=0.0)
    return x.to(dtype)


@triton.jit
def load_code(p_code, tap, start, gene, C: tl.constexpr, BC: tl.constexpr, GP: tl.constexpr, G: tl.constexpr):
    """[BC, G] of a factor [taps, C, GP], from channel `start` and gene `gene`; zeros beyond C."""
    o_c = start + tl.arange(0, BC)
    o_g = gene + tl.arange(0, G)
    return tl.load(p_code + (tap * C + o_c)[:, None] * GP + o_g[None, :], mask=(o_c < C)[:, None], other=0.0)


@triton.jit
def convolve(
    p_x,
    p_first,
    p_second,
    image,  # [BM] image, height and width of each row (of its class, when transposed)
    height,
    width,
    valid,
    class_h,
    class_w,
    column,  # first of the BN channels of the result
    channels,  # C1 and GROUPS again, at run time: a loop of known length is unrolled until registers spill
    groups,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SH: tl.constexpr,  # height and width of the source
    SW: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BITS: tl.constexpr,
    GENE: tl.constexpr,
    GROUPS: tl.constexpr,
    G0: tl.constexpr,
    G1: tl.constexpr,
    G2: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """[BM, BN] float32: sum over taps and C1 of x[row, c1] * sum_g first[c1, g] second[c2, g].

    GENE: z = x first goes to gene space and comes back as z second^T, and z stays in registers.
    Otherwise a tile of W^T = second first^T is decoded in registers, where it is the left operand of W^T x^T.
    """
    dtype: tl.constexpr = p_first.dtype.element_ty
    GP: tl.constexpr = GROUPS * (G0 + G1 + G2)
    PASSES: tl.constexpr = GROUPS if GENE else 1
    SIGN: tl.constexpr = -1 if TRANSPOSED else 1
    STEP: tl.constexpr = STRIDE if TRANSPOSED else 1
    if TRANSPOSED:
        first_h, first_w = (class_h + PADDING) % STRIDE, (class_w + PADDING) % STRIDE
        height += (class_h + PADDING - first_h) // STRIDE
        width += (class_w + PADDING - first_w) // STRIDE
        taps_w = (K - first_w + STRIDE - 1) // STRIDE  # none where K < STRIDE leaves a class unread
        taps = (K - first_h + STRIDE - 1) // STRIDE * taps_w
    else:
        first_h, first_w = 0, 0
        height = height * STRIDE - PADDING
        width = width * STRIDE - PADDING
        taps_w = K
        taps = K * K
    image = image * (SH * SW)

    y = tl.zeros([BM, BN] if GENE else [BN, BM], tl.float32)
    for step in range(PASSES * taps):
        gene = step // taps * (G0 + G1 + G2)
        a, b = step % taps // taps_w, step % taps % taps_w
        tap = (first_h + a * STEP) * K + first_w + b * STEP
        h, w = height + SIGN * a, width + SIGN * b
        inside = valid & (h >= 0) & (h < SH) & (w >= 0) & (w < SW)
        pixels = image + h * SW + w
        if GENE:
            z0 = tl.zeros([BM, G0], tl.float32)
            if G1 > 0:
                z1 = tl.zeros([BM, G1], tl.float32)
            if G2 > 0:
                z2 = tl.zeros([BM, G2], tl.float32)
            for c in range(0, channels, BC):
                x = load_pixels(p_x, pixels, inside, c, C1, BC, BITS, dtype)
                z0 = dot(x, load_code(p_first, tap, c, gene, C1, BC, GP, G0), z0, PRECISION)
                if G1 > 0:
                    e1 = load_code(p_first, tap, c, gene + G0, C1, BC, GP, G1)
                    z1 = dot(x, e1, z1, PRECISION)
                if G2 > 0:
                    e2 = load_code(p_first, tap, c, gene + G0 + G1, C1, BC, GP, G2)
                    z2 = dot(x, e2, z2, PRECISION)
            q0 = load_code(p_second, tap, column, gene, C2, BN, GP, G0)
            y = dot(z0.to(dtype), tl.trans(q0), y, PRECISION)
            if G1 > 0:
                q1 = load_code(p_second, tap, column, gene + G0, C2, BN, GP, G1)
                y = dot(z1.to(dtype), tl.trans(q1), y, PRECISION)
            if G2 > 0:
                q2 = load_code(p_second, tap, column, gene + G0 + G1, C2, BN, GP, G2)
                y = dot(z2.to(dtype), tl.trans(q2), y, PRECISION)
        elif GROUPS == 1:  # the code of the result's channels is loaded once per tap
            q0 = load_code(p_second, tap, column, 0, C2, BN, GP, G0)
            if G1 > 0:
                q1 = load_code(p_second, tap, column, G0, C2, BN, GP, G1)
            if G2 > 0:
                q2 = load_code(p_second, tap, column, G0 + G1, C2, BN, GP, G2)
            for c in range(0, channels, BC):
                x = load_pixels(p_x, pixels, inside, c, C1, BC, BITS, dtype)
                e0 = load_code(p_first, tap, c, 0, C1, BC, GP, G0)
                weight = dot(q0, tl.trans(e0), tl.zeros([BN, BC], tl.float32), PRECISION)
                if G1 > 0:
                    e1 = load_code(p_first, tap, c, G0, C1, BC, GP, G1)
                    weight = dot(q1, tl.trans(e1), weight, PRECISION)
                if G2 > 0:
                    e2 = load_code(p_first, tap, c, G0 + G1, C1, BC, GP, G2)
                    weight = dot(q2, tl.trans(e2), weight, PRECISION)
                y = dot(weight.to(dtype), tl.trans(x), y, PRECISION)
        else:
            for c in range(0, channels, BC):
                weight = tl.zeros([BN, BC], tl.float32)
                for group in range(groups):
                    q0 = load_code(p_second, tap, column, group * G0, C2, BN, GP, G0)
                    e0 = load_code(p_first, tap, c, group * G0, C1, BC, GP, G0)
                    weight = dot(q0, tl.trans(e0), weight, PRECISION)
                x = load_pixels(p_x, pixels, inside, c, C1, BC, BITS, dtype)
                y = dot(weight.to(dtype), tl.trans(x), y, PRECISION)
    if not GENE:
        y = tl.trans(y)
    return y
