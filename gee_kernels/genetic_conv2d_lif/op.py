"""`genetic_conv2d_lif`: inference of one whole spiking layer, convolution to spikes, all T steps at once."""

from typing import NamedTuple

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.genetic_conv2d import plan as planning
from gee_kernels.genetic_conv2d.op import check_input, out_size
from gee_kernels.genetic_conv2d_lif import reference

_library.define(
    "genetic_conv2d_lif",
    "(Tensor x, Tensor pre, Tensor interaction, Tensor post, Tensor scale, Tensor shift, Tensor? residual, "
    "Tensor? bits, int stride, int padding, int time_steps, float tau, float v_threshold, float? v_reset, "
    "bool decay_input, str plan, float event_below) -> (Tensor, Tensor, Tensor)",
)
_library.register_triton("genetic_conv2d_lif", "genetic_conv2d_lif")


@torch.library.register_fake("gee_kernels::genetic_conv2d_lif")
def _fake(
    x, pre, interaction, post, scale, shift, residual, bits, stride, padding, time_steps,
    tau, v_threshold, v_reset, decay_input, plan, event_below,
):  # fmt: skip
    n, c_out = x.shape[0], post.shape[0]
    h, w = (out_size(s, pre.shape[-1], stride, padding) for s in x.shape[2:])
    spikes = x.new_empty((n, h, w, c_out)).permute(0, 3, 1, 2)
    bits = x.new_empty((n, h, w, (c_out + 7) // 8), dtype=torch.uint8)
    return spikes, bits, x.new_empty((n, c_out), dtype=torch.int32)


class GeneticConv2dLIF(NamedTuple):
    """What a layer hands on: spikes `[T*B, C, H, W]`, `pack_spikes` of them, counts `[T*B, C]` int32."""

    spikes: Tensor
    bits: Tensor
    counts: Tensor


def genetic_conv2d_lif(
    x: Tensor,
    pre: Tensor,
    interaction: Tensor,
    post: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    plan: planning.Plan = "auto",
    time_steps: int,
    tau: float = 2.0,
    v_threshold: float = 0.5,
    v_reset: float | None = 0.0,
    decay_input: bool = True,
    bits: Tensor | None = None,
    backend: _library.Backend = "fused",
) -> GeneticConv2dLIF:
    """Inference of convolution with weights grown from genes, folded norm, residual and LIF, for all T steps.

        y = genetic_conv2d(x, ...) * scale + shift [+ residual],   spikes = lif(y over T)

    The fused kernel does not write y to memory.

    Args:
        x: `[T*B, C_in, H, W]`, time outermost, any strides; channels-last memory is fastest.
        pre: encoding of the input population, `[C_in, g, K, K]`.
        interaction: gene interaction, `[g, g]`, presynaptic gene first.
        post: encoding of the output population, `[C_out, g, K, K]`.
        scale: factor of every output channel, `[C_out]`; of a folded batch norm, weight / sqrt(var + eps).
        shift: added to every output channel, `[C_out]`; of a folded batch norm, bias - mean * scale.
        residual: added before the neuron, `[T*B, C_out, H', W']`.
        stride: step of the window, at least 1.
        padding: zeros added on every side, at least 0.
        plan: as in `genetic_conv2d`.
        time_steps: T; must divide x's first dimension.
        tau: membrane time constant, in steps.
        v_threshold: membrane voltage at which the neuron fires.
        v_reset: voltage after a spike; None subtracts v_threshold instead (soft reset).
        decay_input: whether the input is divided by tau with the decay.
        bits: `pack_spikes(x)` where it is known; x must then be binary.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        spikes `[T*B, C_out, H', W']` in x's dtype, channels-last in memory; bits uint8
        `[T*B, H', W', ceil(C_out / 8)]`, `pack_spikes(spikes)`; counts int32 `[T*B, C_out]`, spikes of every
        image, step and channel.

    Raises:
        ValueError: an argument's shape or dtype does not fit the others, or the device has no such plan.
        RuntimeError: a gradient is asked for.
    """
    _library.check_backend(backend)
    x, pre, interaction, post = _library.autocast(x, pre, interaction, post)
    check_input(x, pre, interaction, post, bits, stride, padding)
    planning.check_plan(plan, x.device.type)
    c_out = post.shape[0]
    for name, vector in (("scale", scale), ("shift", shift)):
        if tuple(vector.shape) != (c_out,):
            raise ValueError(f"{name} must be [{c_out}], got {list(vector.shape)}")
    if time_steps < 1 or x.shape[0] % time_steps:
        raise ValueError(f"time_steps must divide x's first dimension {x.shape[0]}, got {time_steps}")
    h, w = (out_size(s, pre.shape[-1], stride, padding) for s in x.shape[2:])
    if residual is not None and tuple(residual.shape) != (x.shape[0], c_out, h, w):
        raise ValueError(f"residual must be {[x.shape[0], c_out, h, w]}, got {list(residual.shape)}")
    if tau < 1:
        raise ValueError(f"tau must be at least 1, got {tau}")
    tensors = (x, pre, interaction, post, scale, shift, residual)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError("genetic_conv2d_lif is for inference: call it under torch.no_grad()")
    accumulate = torch.promote_types(x.dtype, torch.float32)
    scale, shift = scale.to(accumulate), shift.to(accumulate)
    if residual is not None:
        residual = residual.to(x.dtype)
    if backend == "reference" or plan == "materialize":
        return GeneticConv2dLIF(
            *reference.genetic_conv2d_lif(
                x, pre, interaction, post, scale, shift, residual, stride, padding,
                time_steps, tau, v_threshold, v_reset, decay_input,
            )
        )  # fmt: skip
    shape = planning.Shape.of(x.shape[0], x.shape[2], x.shape[3], pre, post, stride, padding)
    name, event_below = planning.resolve(plan, shape, x.device.type)
    return GeneticConv2dLIF(
        *torch.ops.gee_kernels.genetic_conv2d_lif(
            x, pre, interaction, post, scale, shift, residual, bits, stride, padding,
            time_steps, tau, v_threshold, v_reset, decay_input, name, event_below,
        )
    )  # fmt: skip
