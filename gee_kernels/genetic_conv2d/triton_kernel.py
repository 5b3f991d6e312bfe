"""The genetic convolution on the GPU: launchers of the operators that op.py declares."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gee_kernels._triton import Launch, check_storage, meta, short
from gee_kernels.genetic_conv2d.triton_backward import contract
from gee_kernels.genetic_conv2d.triton_forward import convolve_images
from gee_kernels.genetic_conv2d.triton_host import (
    check_pixels,
    gene_chunks,
    half_decoded,
    padded_genes,
    tap_major,
)


def genetic_conv2d(
    x: Tensor,
    pre: Tensor,
    interaction: Tensor,
    post: Tensor,
    bits: Tensor | None,
    stride: int,
    padding: int,
    plan: str,
    event_below: float,
) -> Tensor:
    check_storage("genetic_conv2d", x=x)
    check_pixels("genetic_conv2d", x=x)
    kernel = pre.shape[-1]
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    chunks = gene_chunks(pre.shape[1], plan, pre.dtype)
    genes = padded_genes(chunks)
    return convolve_images(
        x, bits, tap_major(pre, genes), half_decoded(interaction, post, genes), chunks,
        height, width, kernel, stride, padding, plan, transposed=False,
    )  # fmt: skip


def genetic_conv2d_grad_x(
    grad: Tensor,
    pre: Tensor,
    interaction: Tensor,
    post: Tensor,
    height: int,
    width: int,
    stride: int,
    padding: int,
    plan: str,
) -> Tensor:
    check_storage("genetic_conv2d_grad_x", grad=grad)
    chunks = gene_chunks(pre.shape[1], plan, pre.dtype)
    genes = padded_genes(chunks)
    return convolve_images(
        grad, None, half_decoded(interaction, post, genes), tap_major(pre, genes), chunks,
        height, width, pre.shape[-1], stride, padding, plan, transposed=True,
    )  # fmt: skip


def genetic_conv2d_grad_codes(
    grad: Tensor,
    x: Tensor | None,
    bits: Tensor | None,
    pre: Tensor,
    interaction: Tensor,
    post: Tensor,
    stride: int,
    padding: int,
    want_from_post: bool,
    want_from_pre: bool,
    plan: str,
    event_below: float,
) -> tuple[Tensor, Tensor]:
    check_storage("genetic_conv2d_grad_codes", grad=grad)
    return contract(grad, x, bits, pre, post, stride, padding, want_from_post, want_from_pre, plan)


TENSOR_CORE_KERNELS = ("convolution_kernel", "codes_reconstruct_kernel", "codes_gene_kernel")


def launches() -> Iterator[Launch]:
    bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32
    everything = ("bits", "values", "grad_x", "grad_codes bits", "grad_codes values")
    for dtype, plan, genes, wanted in (
        (bf16, "gene", 100, everything),
        (bf16, "reconstruct", 100, everything),
        (bf16, "gene", 250, ("bits",)),
        (bf16, "reconstruct", 200, ("bits",)),
        (f16, "reconstruct", 100, ("bits",)),
        (f32, "gene", 100, ("values", "grad_x", "grad_codes values")),
        (f32, "reconstruct", 100, ("values", "grad_x", "grad_codes values")),
    ):
        x = meta(128, 256, 16, 16, dtype=dtype, channels_last=True)
        grad = meta(128, 512, 8, 8, dtype=dtype, channels_last=True)
        bits = meta(128, 16, 16, 32, dtype=torch.uint8)
        codes = tuple(meta(*s, dtype=dtype) for s in ((256, genes, 3, 3), (genes, genes), (512, genes, 3, 3)))
        calls: dict[str, tuple[Callable, tuple]] = {
            "bits": (genetic_conv2d, (x, *codes, bits, 2, 1, plan, -1.0)),
            "values": (genetic_conv2d, (x, *codes, None, 2, 1, plan, -1.0)),
            "grad_x": (genetic_conv2d_grad_x, (grad, *codes, 16, 16, 2, 1, plan)),
        }
        for name, source in (("bits", (None, bits)), ("values", (x, None))):
            arguments = (grad, *source, *codes, 2, 1, True, True, plan, -1.0)
            calls[f"grad_codes {name}"] = genetic_conv2d_grad_codes, arguments
        for name in wanted:
            yield Launch(f"{short(dtype)} {plan} g={genes} {name}", *calls[name])
