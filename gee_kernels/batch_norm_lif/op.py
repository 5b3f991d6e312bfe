"""`batch_norm_lif`: batch normalisation, residual and leaky integrate-and-fire, with everything counted."""

from typing import NamedTuple

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.batch_norm_lif import reference
from gee_kernels.lif.op import NEURON, check_neuron, membrane_dtype
from gee_kernels.surrogate import Surrogate

# mean, var: [C] to normalise with, or None for those of x itself (var is the biased one). What was used comes
# back, and backward takes it: training says whether it depended on x. weight, bias, mean, var are float32,
# float64 for float64 x. residual_bits replaces reading residual, here and in backward; with bits, residual
# is there for its gradient alone.
_library.define(
    "batch_norm_lif",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? mean, Tensor? var, Tensor? residual,"
    f" Tensor? residual_bits, int time_steps, float eps, {NEURON})"
    " -> (Tensor spikes, Tensor bits, Tensor counts, Tensor mean, Tensor var)",
)
# grad_residual: [T*B, C, H, W], or [0] where residual_grad is False.
_library.define(
    "batch_norm_lif_backward",
    "(Tensor grad_spikes, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor var, Tensor? residual,"
    f" Tensor? residual_bits, int time_steps, float eps, {NEURON}, bool training, bool residual_grad)"
    " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_residual)",
)
_library.register_triton("batch_norm_lif", "batch_norm_lif")
_library.register_triton("batch_norm_lif_backward", "batch_norm_lif")


def _channels_last(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], *x.shape[2:], x.shape[1])).movedim(-1, 1)


@torch.library.register_fake("gee_kernels::batch_norm_lif")
def _fake(x, weight, bias, mean, var, residual, residual_bits, time_steps, eps, *neuron):
    bits = x.new_empty((x.shape[0], *x.shape[2:], (x.shape[1] + 7) // 8), dtype=torch.uint8)
    counts = x.new_empty(x.shape[:2], dtype=torch.int32)
    return _channels_last(x), bits, counts, torch.empty_like(weight), torch.empty_like(weight)


@torch.library.register_fake("gee_kernels::batch_norm_lif_backward")
def _backward_fake(
    grad_spikes, x, weight, bias, mean, var, residual, residual_bits, time_steps, eps, *neuron_and_flags
):
    *_, residual_grad = neuron_and_flags
    grad_residual = _channels_last(x) if residual_grad else x.new_empty(0)
    return _channels_last(x), torch.empty_like(weight), torch.empty_like(bias), grad_residual


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, given_mean, _, residual, residual_bits, *options = inputs
    *_, mean, var = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x, weight, bias, mean, var, residual if residual_bits is None else None, residual_bits
    )
    ctx.options, ctx.training = options, given_mean is None


def _backward(ctx, grad_spikes, *_):
    if grad_spikes is None:
        return (None,) * 16
    residual_grad = ctx.needs_input_grad[5]
    grad_x, grad_weight, grad_bias, grad_residual = torch.ops.gee_kernels.batch_norm_lif_backward(
        grad_spikes, *ctx.saved_tensors, *ctx.options, ctx.training, residual_grad
    )
    return grad_x, grad_weight, grad_bias, None, None, grad_residual if residual_grad else None, *[None] * 10


torch.library.register_autograd("gee_kernels::batch_norm_lif", _backward, setup_context=_setup_context)


class BatchNormLIF(NamedTuple):
    """What `batch_norm_lif` returns; bits and counts carry no gradient."""

    spikes: Tensor  # [T*B, C, H, W], zeros and ones in x.dtype, channels-last in memory
    bits: Tensor  # [T*B, H, W, ceil(C / 8)] uint8, pack_spikes(spikes)
    counts: Tensor  # [T*B, C] int32, spikes per image-step and channel


def batch_norm_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    residual: Tensor | None = None,
    *,
    time_steps: int,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    tau: float = 2.0,
    v_threshold: float = 0.5,
    v_reset: float | None = 0.0,
    decay_input: bool = True,
    detach_reset: bool = True,
    surrogate: Surrogate = "piecewise_quadratic",
    alpha: float = 2.0,
    residual_bits: Tensor | None = None,
    backend: _library.Backend = "fused",
) -> BatchNormLIF:
    """Batch normalisation over T, B, H and W, plus a residual, into leaky integrate-and-fire neurons.

        y = (x - mean) / sqrt(var + eps) * weight + bias [+ residual],   spikes = lif(y over T)

    Neither y nor the membrane is written to memory. Backward keeps x, four vectors, and the residual (its
    bits where they are given), and recomputes the rest.

    Args:
        x: `[T*B, C, H, W]`, time outermost, any floating type and strides; channels-last is the fast path.
            Any number of space dimensions, none included. Under autocast it is cast to the autocast type.
        weight: `[C]`, the scale. All vectors are used in float32 (float64 for float64 x).
        bias: `[C]`, the shift.
        running_mean: `[C]`, updated in place when training, used otherwise.
        running_var: `[C]`, likewise; updated with the unbiased variance, as torch does.
        residual: `[T*B, C, H, W]`, added before the neurons; cast to the type of x.
        time_steps: T.
        training: normalise with the statistics of x, else with the running ones.
        momentum: weight of the new statistics in the running ones.
        eps: added to the variance.
        tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha: the neuron, see `lif`.
        residual_bits: `[T*B, H, W, ceil(C / 8)]` uint8, `pack_spikes(residual)` where residual is binary
            and its bits are known: then they are read and kept for backward in place of residual.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        `BatchNormLIF(spikes, bits, counts)`.

    Raises:
        TypeError: x is not floating point.
        ValueError: a shape does not fit, T does not divide the batch, training on a single value per
            channel, or a neuron parameter is out of range.
    """
    _library.check_backend(backend)
    check_neuron(tau, surrogate, alpha)
    _check_shapes(x, weight, bias, running_mean, running_var, residual, residual_bits, time_steps)
    values = x.shape[0] * x.shape[2:].numel()  # per channel
    if training and values == 1:
        raise ValueError(f"training needs more than one value per channel, got x {list(x.shape)}")
    (x,) = _library.autocast(x)
    dtype = membrane_dtype(x.dtype)
    weight, bias = weight.to(dtype), bias.to(dtype)
    neuron = tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha
    if backend == "reference":
        return BatchNormLIF(
            *reference.batch_norm_lif(
                x,
                weight,
                bias,
                running_mean,
                running_var,
                residual,
                time_steps,
                training,
                momentum,
                eps,
                *neuron,
            )
        )
    spikes, bits, counts, mean, var = torch.ops.gee_kernels.batch_norm_lif(
        x,
        weight,
        bias,
        None if training else running_mean.to(dtype),
        None if training else running_var.to(dtype),
        None if residual is None else residual.to(x.dtype),
        residual_bits,
        time_steps,
        eps,
        *neuron,
    )
    if training and values:
        reference.update_running(running_mean, running_var, mean, var, momentum, values)
    return BatchNormLIF(spikes, bits, counts)


def _check_shapes(x, weight, bias, running_mean, running_var, residual, residual_bits, time_steps) -> None:
    if x.dim() < 2:
        raise ValueError(f"x must be [T*B, C, H, W], got {list(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if time_steps < 1 or x.shape[0] % time_steps:
        raise ValueError(f"x must be [T*B, C, H, W] with T = {time_steps} time_steps, got {list(x.shape)}")
    channels = x.shape[1]
    for name, vector in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if vector.shape != (channels,):
            raise ValueError(f"{name} must be [{channels}] for x {list(x.shape)}, got {list(vector.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual must be {list(x.shape)} as x is, got {list(residual.shape)}")
    if residual_bits is not None:
        packed = (x.shape[0], *x.shape[2:], (channels + 7) // 8)
        if residual is None or residual_bits.shape != packed or residual_bits.dtype != torch.uint8:
            got = f"{residual_bits.dtype} {list(residual_bits.shape)}" + (
                " alone" if residual is None else ""
            )
            raise ValueError(f"residual_bits must be uint8 {list(packed)} beside a residual, got {got}")
