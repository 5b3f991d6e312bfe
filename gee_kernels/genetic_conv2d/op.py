"""`genetic_conv2d`: convolution with weights decoded from genes, and its gradients straight to the codes.

    y[n, o, p'] = sum_{t, i} x[n, i, p(p', t)] W[o, i, t]
    W[o, i, t] = sum_{u, v} pre[i, u, t] interaction[u, v] post[o, v, t]

Every kernel returns activations that are channels-last in memory, and gradients of the codes in gene space:

    from_post[t, i, v] = sum_o dW[o, i, t] post[o, v, t]
    from_pre[t, o, u] = sum_i dW[o, i, t] pre[i, u, t]

from which the three gradients follow by [g, g] products (`_finish`), so that dL/dW is never held as a whole.
"""

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.decode_weight.op import check_codes, decode_weight
from gee_kernels.genetic_conv2d import plan as planning
from gee_kernels.genetic_conv2d import reference

# plan: a dense plan or "event"; event_below: under which density of x the CPU kernel takes "event" instead
# (0: never); negative: the user named the plan, and it holds in every direction.
_library.define(
    "genetic_conv2d",
    "(Tensor x, Tensor pre, Tensor interaction, Tensor post, Tensor? bits, int stride, int padding, "
    "str plan, float event_below) -> Tensor",
)
# grad [N, C_out, H', W'] -> grad_x [N, C_in, H, W]
_library.define(
    "genetic_conv2d_grad_x",
    "(Tensor grad, Tensor pre, Tensor interaction, Tensor post, SymInt height, SymInt width, int stride, "
    "int padding, str plan) -> Tensor",
)
# One of x and bits is given. -> from_post [K*K, C_in, g] and from_pre [K*K, C_out, g] in the accumulation
# type; the one that is not wanted is empty, [0].
_library.define(
    "genetic_conv2d_grad_codes",
    "(Tensor grad, Tensor? x, Tensor? bits, Tensor pre, Tensor interaction, Tensor post, int stride, "
    "int padding, bool want_from_post, bool want_from_pre, str plan, float event_below) -> (Tensor, Tensor)",
)
for _name in ("genetic_conv2d", "genetic_conv2d_grad_x", "genetic_conv2d_grad_codes"):
    _library.register_triton(_name, "genetic_conv2d")


def out_size(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


@torch.library.register_fake("gee_kernels::genetic_conv2d")
def _forward_fake(x, pre, interaction, post, bits, stride, padding, plan, event_below):
    k = pre.shape[-1]
    h, w = (out_size(s, k, stride, padding) for s in x.shape[2:])
    return x.new_empty((x.shape[0], h, w, post.shape[0])).permute(0, 3, 1, 2)


@torch.library.register_fake("gee_kernels::genetic_conv2d_grad_x")
def _grad_x_fake(grad, pre, interaction, post, height, width, stride, padding, plan):
    return grad.new_empty((grad.shape[0], height, width, pre.shape[0])).permute(0, 3, 1, 2)


@torch.library.register_fake("gee_kernels::genetic_conv2d_grad_codes")
def _grad_codes_fake(
    grad, x, bits, pre, interaction, post, stride, padding, want_from_post, want_from_pre, plan, event_below
):
    taps, genes = pre.shape[-1] ** 2, pre.shape[1]
    dtype = torch.promote_types(grad.dtype, torch.float32)
    from_post = (taps, pre.shape[0], genes) if want_from_post else (0,)
    from_pre = (taps, post.shape[0], genes) if want_from_pre else (0,)
    return grad.new_empty(from_post, dtype=dtype), grad.new_empty(from_pre, dtype=dtype)


def _setup(ctx, inputs, output):
    x, pre, interaction, post, bits, stride, padding, plan, event_below = inputs
    ctx.geometry = stride, padding
    ctx.plan = plan, event_below
    ctx.space = x.shape[2], x.shape[3]
    wants_codes = any(ctx.needs_input_grad[1:4])
    keep_x = x if wants_codes and bits is None else None
    ctx.save_for_backward(keep_x, bits if wants_codes else None, pre, interaction, post)


def _backward(ctx, grad):
    x, bits, pre, interaction, post = ctx.saved_tensors
    stride, padding = ctx.geometry
    height, width = ctx.space
    shape = planning.Shape.of(grad.shape[0], height, width, pre, post, stride, padding)
    device = grad.device.type
    need_x, need_pre, need_interaction, need_post = ctx.needs_input_grad[:4]
    grad_x = grad_pre = grad_interaction = grad_post = None
    if need_x:
        plan, _ = planning.direction("grad_x", shape, device, *ctx.plan)
        grad_x = torch.ops.gee_kernels.genetic_conv2d_grad_x(
            grad, pre, interaction, post, height, width, stride, padding, plan
        )
    if need_pre or need_interaction or need_post:
        plan, event_below = planning.direction("grad_codes", shape, device, *ctx.plan)
        from_post, from_pre = torch.ops.gee_kernels.genetic_conv2d_grad_codes(
            grad, x, bits, pre, interaction, post, stride, padding,
            need_pre or need_interaction, need_post, plan, event_below,
        )  # fmt: skip
        if need_pre or need_interaction:
            grad_pre, grad_interaction = _finish_pre(from_post, pre, interaction)
        if need_post:
            grad_post = _finish_post(from_pre, interaction, post)
    return grad_x, grad_pre, grad_interaction, grad_post, None, None, None, None, None


def _finish_pre(from_post: Tensor, pre: Tensor, interaction: Tensor) -> tuple[Tensor, Tensor]:
    # from_post: [K*K, C_in, g] -> grad_pre [C_in, g, K, K], grad_interaction [g, g]
    k, genes = pre.shape[-1], pre.shape[1]
    grad_pre = from_post @ interaction.to(from_post.dtype).t()
    grad_pre = grad_pre.movedim(0, 2).reshape(-1, genes, k, k)
    taps = pre.to(from_post.dtype).flatten(2).permute(1, 2, 0).reshape(genes, -1)  # [g, K*K*C_in]
    grad_interaction = taps @ from_post.reshape(-1, genes)
    return grad_pre.to(pre.dtype), grad_interaction.to(interaction.dtype)


def _finish_post(from_pre: Tensor, interaction: Tensor, post: Tensor) -> Tensor:
    # from_pre: [K*K, C_out, g] -> grad_post [C_out, g, K, K]
    k, genes = post.shape[-1], post.shape[1]
    grad_post = from_pre @ interaction.to(from_pre.dtype)
    return grad_post.movedim(0, 2).reshape(-1, genes, k, k).to(post.dtype)


torch.library.register_autograd("gee_kernels::genetic_conv2d", _backward, setup_context=_setup)


def check_input(
    x: Tensor, pre: Tensor, interaction: Tensor, post: Tensor, bits: Tensor | None, stride: int, padding: int
) -> None:
    """Raise ValueError naming the argument that does not fit; see `genetic_conv2d` for the shapes."""
    check_codes(pre, interaction, post)
    c_in, k = pre.shape[0], pre.shape[-1]
    if x.dim() != 4 or x.shape[1] != c_in:
        raise ValueError(f"x must be [N, {c_in}, H, W] for pre with {c_in} channels, got {list(x.shape)}")
    if x.dtype != pre.dtype:
        raise ValueError(f"x and the codes must have one dtype, got {x.dtype} and {pre.dtype}")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    if min(x.shape[2:]) + 2 * padding < k:
        raise ValueError(
            f"x must be at least {k} high and wide with its padding {padding}, got {list(x.shape)}"
        )
    if bits is not None:
        expected = (x.shape[0], x.shape[2], x.shape[3], (c_in + 7) // 8)
        if bits.dtype != torch.uint8 or tuple(bits.shape) != expected:
            raise ValueError(
                f"bits must be pack_spikes(x), uint8 {list(expected)}, got {bits.dtype} {list(bits.shape)}"
            )


def genetic_conv2d(
    x: Tensor,
    pre: Tensor,
    interaction: Tensor,
    post: Tensor,
    stride: int = 1,
    padding: int = 1,
    plan: planning.Plan = "auto",
    *,
    bits: Tensor | None = None,
    backend: _library.Backend = "fused",
) -> Tensor:
    """Convolve with weights grown from genes, without ever holding the weights (GEE, Eqs. 1-3).

        W[o, i, h, w] = sum_{u,v} pre[i, u, h, w] * interaction[u, v] * post[o, v, h, w]

    Args:
        x: `[N, C_in, H, W]`, any strides; channels-last memory is fastest.
        pre: encoding of the input population, `[C_in, g, K, K]`.
        interaction: gene interaction, `[g, g]`, presynaptic gene first.
        post: encoding of the output population, `[C_out, g, K, K]`.
        stride: step of the window, at least 1.
        padding: zeros added on every side, at least 0.
        plan: how to compute it. `"auto"`: by predicted cost (see `explain_plan`); `"reconstruct"`: decode
            tiles of W inside the convolution; `"gene"`: take the product in gene space; `"event"` (CPU):
            visit only the non-zero inputs; `"materialize"`: decode W, then torch's convolution.
        bits: `pack_spikes(x)` where it is known. x must then be binary; kernels may read the bits instead of
            x, and the backward pass keeps them instead of x.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        `[N, C_out, H', W']` in x's dtype, channels-last in memory, H' = (H + 2 padding - K) // stride + 1.
        Differentiable in x, pre, interaction and post. Sums are taken in float32 (float64 for float64).

    Raises:
        ValueError: an argument's shape or dtype does not fit the others, or the device has no such plan.
    """
    _library.check_backend(backend)
    x, pre, interaction, post = _library.autocast(x, pre, interaction, post)
    check_input(x, pre, interaction, post, bits, stride, padding)
    planning.check_plan(plan, x.device.type)
    if backend == "reference":
        return reference.genetic_conv2d(x, pre, interaction, post, stride, padding)
    if plan == "materialize":
        return torch.nn.functional.conv2d(x, decode_weight(pre, interaction, post), None, stride, padding)
    shape = planning.Shape.of(x.shape[0], x.shape[2], x.shape[3], pre, post, stride, padding)
    name, event_below = planning.resolve(plan, shape, x.device.type)
    return torch.ops.gee_kernels.genetic_conv2d(
        x, pre, interaction, post, bits, stride, padding, name, event_below
    )
