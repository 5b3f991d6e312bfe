"""W[o, i, h, w] = sum_{u,v} pre[i, u, h, w] * interaction[u, v] * post[o, v, h, w] on the GPU."""

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from gee_kernels._triton import STORAGE, Launch, block, check_storage, meta, short
from gee_kernels.genetic_conv2d.triton_host import half_decoded, precision, tap_major
from gee_kernels.genetic_conv2d.triton_tiles import dot, load_code

TENSOR_CORE_KERNELS = ("decode_weight_kernel",)
GENES = 16  # contracted at a time


@triton.jit(do_not_specialize=["padded"])
def decode_weight_kernel(
    p_pre,  # [taps, C_IN, GP]
    p_post,  # [taps, C_OUT, GP], interaction x post
    p_weight,  # [C_OUT, C_IN, taps]
    padded,  # GP again, at run time: a loop of known length is unrolled
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
    GP: tl.constexpr,
    BG: tl.constexpr,
    BI: tl.constexpr,
    BO: tl.constexpr,
):
    """W[o, i, t] = sum_u pre[t, i, u] post[t, o, u]"""
    TILES: tl.constexpr = (C_IN + BI - 1) // BI
    tap = tl.program_id(0) % TAPS
    start_in = tl.program_id(0) // TAPS % TILES * BI
    start_out = tl.program_id(0) // (TAPS * TILES) * BO
    total = tl.zeros([BO, BI], tl.float32)
    for gene in range(0, padded, BG):
        post = load_code(p_post, tap, start_out, gene, C_OUT, BO, GP, BG)
        pre = load_code(p_pre, tap, start_in, gene, C_IN, BI, GP, BG)
        total = dot(post, tl.trans(pre), total, PRECISION)
    o_out, o_in = start_out + tl.arange(0, BO), start_in + tl.arange(0, BI)
    p_tile = p_weight + (o_out.to(tl.int64)[:, None] * C_IN + o_in[None, :]) * TAPS + tap
    mask = (o_out < C_OUT)[:, None] & (o_in < C_IN)[None, :]
    tl.store(p_tile, total.to(p_weight.dtype.element_ty), mask=mask)


def decode_weight(pre: Tensor, interaction: Tensor, post: Tensor) -> Tensor:
    # pre: [C_in, g, K, K], interaction: [g, g], post: [C_out, g, K, K] -> [C_out, C_in, K, K]
    check_storage("decode_weight", pre=pre)
    c_in, c_out, kernel = pre.shape[0], post.shape[0], pre.shape[-1]
    weight = pre.new_empty((c_out, c_in, kernel, kernel))
    if weight.numel() == 0:
        return weight
    padded = triton.cdiv(pre.shape[1], GENES) * GENES
    block_in, block_out = max(16, block(c_in, 64)), max(16, block(c_out, 64))
    grid = (kernel * kernel * triton.cdiv(c_in, block_in) * triton.cdiv(c_out, block_out),)
    decode_weight_kernel[grid](
        p_pre=tap_major(pre, padded),
        p_post=half_decoded(interaction, post, padded),
        p_weight=weight,
        padded=padded,
        C_IN=c_in,
        C_OUT=c_out,
        TAPS=kernel * kernel,
        PRECISION=precision(pre.dtype),
        GP=padded,
        BG=GENES,
        BI=block_in,
        BO=block_out,
        num_warps=4,
        num_stages=3,
        enable_fp_fusion=True,
    )
    return weight


def launches() -> Iterator[Launch]:
    for dtype in STORAGE:
        for c_in, c_out, genes in ((3, 16, 7), (256, 512, 100)):
            codes = (
                meta(c_in, genes, 3, 3, dtype=dtype),
                meta(genes, genes, dtype=dtype),
                meta(c_out, genes, 3, 3, dtype=dtype),
            )
            yield Launch(f"{short(dtype)} {c_in}->{c_out} g={genes}", decode_weight, codes)
