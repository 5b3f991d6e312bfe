"""What the launchers of the genetic convolution's Triton kernels share: layouts and blocks."""

import torch
import triton
from torch import Tensor

from gee_kernels._triton import block

MAX_GENES = {"gene": 128, "reconstruct": 256}  # of one pass: what registers, or shared memory, hold of a tap
MAX_GENES_FLOAT32 = {"gene": 32, "reconstruct": 16}


def gene_chunks(genes: int, plan: str, dtype: torch.dtype) -> dict[str, int]:
    """How `genes` are cut: GROUPS passes of chunks G0 > G1 > G2 (0: none), powers of two of at least 16."""
    limit = (MAX_GENES_FLOAT32 if dtype == torch.float32 else MAX_GENES)[plan]
    groups = triton.cdiv(genes, limit)
    units = triton.cdiv(triton.cdiv(genes, groups), 16)
    while units.bit_count() > (3 if groups == 1 or plan == "gene" else 1):
        units += 1
    chunks = [16 << i for i in range(5) if units >> i & 1]
    g0, g1, g2 = [*chunks[::-1], 0, 0][:3]
    return {"GROUPS": groups, "G0": g0, "G1": g1, "G2": g2}


def padded_genes(chunks: dict[str, int]) -> int:
    return chunks["GROUPS"] * (chunks["G0"] + chunks["G1"] + chunks["G2"])


def tap_major(code: Tensor, genes: int) -> Tensor:
    # [C, g, K, K] -> [K*K, C, genes], contiguous, zeros beyond g
    taps = code.flatten(2).permute(2, 0, 1)
    return torch.nn.functional.pad(taps, (0, genes - code.shape[1])).contiguous()


def half_decoded(interaction: Tensor, post: Tensor, genes: int) -> Tensor:
    # [t, o, u] = sum_v post[o, v, t] interaction[u, v]: [K*K, C_out, genes], zeros beyond g
    padded = torch.nn.functional.pad(interaction, (0, 0, 0, genes - interaction.shape[0]))
    return (post.flatten(2).permute(2, 0, 1) @ padded.t()).contiguous()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def empty_images(like: Tensor, images: int, channels: int, height: int, width: int) -> Tensor:
    # [N, C, H, W], channels innermost in memory
    return like.new_empty((images, height, width, channels)).permute(0, 3, 1, 2)


def check_pixels(operator: str, **tensors: Tensor) -> None:
    """Raise ValueError for more pixels over all images than 32 bits count."""
    for name, tensor in tensors.items():
        pixels = tensor.shape[0] * tensor.shape[2] * tensor.shape[3]
        if pixels >= 2**31 - 2**16:
            raise ValueError(f"{operator}: {name} must have fewer than 2^31 pixels in all, got {pixels}")


def precision(dtype: torch.dtype) -> str:
    """The tensor cores' rounding of float32 operands: torch.backends.cuda.matmul decides."""
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"


def block_channels(channels: int, dtype: torch.dtype) -> int:
    """Channels contracted at a time: as many as there are, from 16 to 64 (float32: 16)."""
    return max(16, block(channels, 16 if dtype == torch.float32 else 64))
