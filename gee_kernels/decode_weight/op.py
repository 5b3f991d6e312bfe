"""`decode_weight`: the convolution weight that two encodings and the gene interaction stand for."""

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.decode_weight import reference

_library.define("decode_weight", "(Tensor pre, Tensor interaction, Tensor post) -> Tensor")
_library.register_triton("decode_weight", "decode_weight")


@torch.library.register_fake("gee_kernels::decode_weight")
def _fake(pre: Tensor, interaction: Tensor, post: Tensor) -> Tensor:
    return pre.new_empty((post.shape[0], pre.shape[0], *pre.shape[2:]))


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    # grad: dL/dW [C_out, C_in, K, K]
    pre, interaction, post = ctx.saved_tensors
    need_pre, need_interaction, need_post = ctx.needs_input_grad
    grad_pre = grad_interaction = grad_post = None
    if need_pre or need_interaction:
        from_post = torch.einsum("oihw,ovhw->ivhw", grad, post)
        grad_pre = torch.einsum("ivhw,uv->iuhw", from_post, interaction)
        grad_interaction = torch.einsum("iuhw,ivhw->uv", pre, from_post)
    if need_post:
        from_pre = torch.einsum("oihw,iuhw->ouhw", grad, pre)
        grad_post = torch.einsum("ouhw,uv->ovhw", from_pre, interaction)
    return grad_pre, grad_interaction, grad_post


torch.library.register_autograd("gee_kernels::decode_weight", _backward, setup_context=_setup)


def check_codes(pre: Tensor, interaction: Tensor, post: Tensor) -> None:
    """Raise ValueError unless pre is `[C_in, g, K, K]`, interaction `[g, g]` and post `[C_out, g, K, K]`."""
    if pre.dim() != 4 or pre.shape[2] != pre.shape[3]:
        raise ValueError(f"pre must be [C_in, g, K, K], got {list(pre.shape)}")
    genes, k = pre.shape[1], pre.shape[2]
    if tuple(interaction.shape) != (genes, genes):
        raise ValueError(f"interaction must be [{genes}, {genes}], got {list(interaction.shape)}")
    if post.dim() != 4 or tuple(post.shape[1:]) != (genes, k, k):
        raise ValueError(f"post must be [C_out, {genes}, {k}, {k}], got {list(post.shape)}")
    for name, code in (("interaction", interaction), ("post", post)):
        if code.dtype != pre.dtype or code.device != pre.device:
            raise ValueError(
                f"{name} must be {pre.dtype} on {pre.device} as pre is, got {code.dtype} on {code.device}"
            )
    if not pre.dtype.is_floating_point:
        raise ValueError(f"pre must be floating point, got {pre.dtype}")


def decode_weight(
    pre: Tensor, interaction: Tensor, post: Tensor, *, backend: _library.Backend = "fused"
) -> Tensor:
    """The weight of a convolution, decoded from genes; for export, tests and reading (GEE, Eqs. 1-3).

        W[o, i, h, w] = sum_{u,v} pre[i, u, h, w] * interaction[u, v] * post[o, v, h, w]

    Args:
        pre: encoding of the input population, `[C_in, g, K, K]`.
        interaction: gene interaction, `[g, g]`, presynaptic gene first.
        post: encoding of the output population, `[C_out, g, K, K]`.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        W, `[C_out, C_in, K, K]`, contiguous, in the codes' dtype. Differentiable in all three.

    Raises:
        ValueError: the shapes, dtypes or devices of the codes do not fit each other.
    """
    _library.check_backend(backend)
    pre, interaction, post = _library.autocast(pre, interaction, post)
    check_codes(pre, interaction, post)
    if backend == "reference":
        return reference.decode_weight(pre, interaction, post).contiguous()
    return torch.ops.gee_kernels.decode_weight(pre, interaction, post)
