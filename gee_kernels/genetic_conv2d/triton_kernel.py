"""The genetic convolution on the GPU: launchers of the operators in op.py, whose schemas say the arguments."""

from torch import Tensor

from gee_kernels._triton import check_storage
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
    check_storage("genetic_conv2d", x=x, pre=pre)
    kernel = pre.shape[-1]
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    chunks = gene_chunks(pre.shape[1], plan)
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
    check_storage("genetic_conv2d_grad_x", grad=grad, pre=pre)
    chunks = gene_chunks(pre.shape[1], plan)
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
    check_storage("genetic_conv2d_grad_codes", grad=grad, pre=pre)
    return contract(grad, x, bits, pre, post, stride, padding, want_from_post, want_from_pre, plan)
