"""Batch normalisation over T, B, H and W, plus a residual, into leaky integrate-and-fire; in plain PyTorch.

y = (x - mean) / sqrt(var + eps) * weight + bias [+ residual],   spikes = lif(y over T)
"""

import torch
from torch import Tensor

from gee_kernels.lif.reference import lif
from gee_kernels.spikes.reference import pack_spikes


def batch_norm_lif(
    x: Tensor,  # [T*B, C, H, W], time outermost
    weight: Tensor,  # [C], in the membrane's dtype: float32, float64 for float64 x
    bias: Tensor,  # [C], likewise
    running_mean: Tensor,  # [C], updated in place when training
    running_var: Tensor,  # [C], updated in place when training (unbiased, as torch does)
    residual: Tensor | None,  # [T*B, C, H, W]
    time_steps: int,
    training: bool,
    momentum: float,
    eps: float,
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    surrogate: str,
    alpha: float,
) -> tuple[
    Tensor, Tensor, Tensor
]:  # spikes [T*B, C, H, W], bits [T*B, H, W, ceil(C/8)], counts [T*B, C] int32
    values = x.movedim(1, -1).to(weight.dtype)  # [T*B, H, W, C]: the vectors meet the last dimension
    if training and x.numel():
        rows = values.flatten(0, -2)
        mean, var = rows.mean(0), rows.var(0, correction=0)
        update_running(running_mean, running_var, mean.detach(), var.detach(), momentum, len(rows))
    else:
        mean, var = running_mean.to(weight.dtype), running_var.to(weight.dtype)
    y = ((values - mean) * ((var + eps).rsqrt() * weight) + bias).movedim(-1, 1)
    if residual is not None:
        y = y + residual
    spikes, _ = lif(
        y.unflatten(0, (time_steps, -1)),
        None,
        tau,
        v_threshold,
        v_reset,
        decay_input,
        detach_reset,
        surrogate,
        alpha,
    )
    spikes = spikes.flatten(0, 1).to(x.dtype)
    counts = spikes.detach().unsqueeze(-1).flatten(2).sum(2, dtype=torch.float64)
    return spikes, pack_spikes(spikes.detach()), counts.to(torch.int32)


def update_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, momentum: float, values: int
) -> None:
    """Move the running statistics in place towards a batch's (var: biased) of `values` per channel."""
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (values / (values - 1))).to(running_var.dtype), momentum)
