"""y and the gradient to x: the convolution and its transpose, which are one kernel (see triton_tiles.py)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gee_kernels.genetic_conv2d.triton_host import block_channels, channels_last, empty_images, precision
from gee_kernels.genetic_conv2d.triton_tiles import convolve, result_pixels


@triton.jit(do_not_specialize=["n_images", "channels", "groups"])
def convolution_kernel(
    p_x,  # [N, SH, SW, C1], or bits [N, SH, SW, ceil(C1 / 8)]
    p_first,  # [taps, C1, gp]
    p_second,  # [taps, C2, gp]
    p_y,  # [N, DH, DW, C2]
    n_images,
    channels,  # C1, and GROUPS
    groups,
    C1: tl.constexpr,
    C2: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
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
    """y[row, c2] = sum over taps, c1 and genes of x[row, c1] first[tap, c1, g] second[tap, c2, g]."""
    columns: tl.constexpr = (C2 + BN - 1) // BN
    column = tl.program_id(0) % columns * BN  # column tiles of the same rows run side by side: x is read once
    rows = tl.program_id(0) // columns * BM + tl.arange(0, BM)
    image, height, width, class_h, class_w = result_pixels(rows, tl.program_id(1), DH, DW, STRIDE, TRANSPOSED)
    valid = image < n_images
    y = convolve(
        p_x, p_first, p_second, image, height, width, valid, class_h, class_w, column, channels, groups,
        C1, C2, SH, SW, K, STRIDE, PADDING, TRANSPOSED, BITS, GENE, GROUPS, G0, G1, G2, PRECISION, BM, BN, BC,
    )  # fmt: skip
    if TRANSPOSED:
        height, width = class_h + height * STRIDE, class_w + width * STRIDE
    pixels = (image * DH + height) * DW + width
    o_c = column + tl.arange(0, BN)
    p_tile = p_y + pixels.to(tl.int64)[:, None] * C2 + o_c[None, :]
    tl.store(p_tile, y.to(p_y.dtype.element_ty), mask=valid[:, None] & (o_c < C2)[None, :])


def _config(rows: int, columns: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BM": rows, "BN": columns}, num_warps=warps, num_stages=stages)


# Configurations for 16-bit storage, from sm_90 on and before, by plan; the first fits any number of channels.
# Chosen so that nothing spills (`python -m bench.compile_kernels`); not measured.
HOPPER = {
    "gene": [_config(128, 64, 8, 3), _config(128, 128, 8, 3), _config(128, 256, 8, 2)],
    "reconstruct": [_config(128, 64, 8, 3), _config(128, 128, 8, 2), _config(256, 64, 8, 2)],
}
AMPERE = {
    "gene": [_config(128, 64, 8, 3), _config(64, 256, 8, 2)],
    "reconstruct": [_config(128, 64, 8, 3)],
}
FLOAT32 = _config(64, 64, 8, 2)
INTERPRETED = _config(32, 32, 1, 1)


def configurations(dtype: torch.dtype, gene: bool, columns: int, genes: int) -> list[triton.Config]:
    """Those of this storage, plan and chip whose column tile is not mostly padding; `genes` of one pass."""
    if triton.knobs.runtime.interpret:
        return [INTERPRETED]
    if dtype == torch.float32:
        return [FLOAT32]
    hopper = triton.runtime.driver.active.get_current_target().arch >= 90
    fits = (HOPPER if hopper else AMPERE)["gene" if gene else "reconstruct"]
    fits = [c for c in fits if c is fits[0] or c.kwargs["BN"] < 2 * columns]
    # Plan gene keeps z [BM, genes] and y [BM, BN] in registers at once.
    return [c for c in fits if not gene or c.kwargs["BN"] + genes <= 368]


def prune(configs: list[triton.Config], positional: dict, **arguments) -> list[triton.Config]:
    genes = arguments["G0"] + arguments["G1"] + arguments["G2"]
    return configurations(arguments["p_first"].dtype, arguments["GENE"], arguments["C2"], genes)


EVERY = [c for table in (HOPPER, AMPERE) for configs in table.values() for c in configs] + [FLOAT32]
_convolution = triton.autotune(
    configs=[INTERPRETED] if triton.knobs.runtime.interpret else EVERY,
    key=[
        "C1",
        "C2",
        "SH",
        "SW",
        "STRIDE",
        "TRANSPOSED",
        "BITS",
        "GENE",
        "GROUPS",
        "G0",
        "G1",
        "G2",
        "PRECISION",
    ],
    prune_configs_by={"early_config_prune": prune},
    cache_results=True,
)(convolution_kernel)


def convolve_images(
    x: Tensor,  # [N, C1, H, W], any strides
    bits: Tensor | None,  # [N, H, W, ceil(C1 / 8)], read instead of x
    first: Tensor,  # [K*K, C1, gp]
    second: Tensor,  # [K*K, C2, gp]
    chunks: dict[str, int],
    height: int,  # of the result
    width: int,
    kernel: int,
    stride: int,
    padding: int,
    plan: str,
    transposed: bool,
) -> Tensor:  # [N, C2, height, width]
    y = empty_images(x, x.shape[0], second.shape[1], height, width)
    if y.numel() == 0:
        return y
    source = channels_last(x) if bits is None else bits.contiguous()
    step = stride if transposed else 1
    classes = min(step, height) * min(step, width)
    rows = x.shape[0] * triton.cdiv(height, step) * triton.cdiv(width, step)

    def grid(meta):
        return triton.cdiv(rows, meta["BM"]) * triton.cdiv(second.shape[1], meta["BN"]), classes

    _convolution[grid](
        p_x=source,
        p_first=first,
        p_second=second,
        p_y=y,
        n_images=x.shape[0],
        channels=first.shape[1],
        groups=chunks["GROUPS"],
        C1=first.shape[1],
        C2=second.shape[1],
        SH=x.shape[2],
        SW=x.shape[3],
        DH=height,
        DW=width,
        K=kernel,
        STRIDE=stride,
        PADDING=padding,
        TRANSPOSED=transposed,
        BITS=bits is not None,
        GENE=plan == "gene",
        PRECISION=precision(x.dtype),
        BC=block_channels(first.shape[1], x.dtype),
        **chunks,
        enable_fp_fusion=True,
    )
    return y
