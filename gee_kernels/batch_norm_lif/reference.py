"""Batch normalisation over T, B, H and W, plus a residual, into leaky integrate-and-fire; in plain PyTorch.

y = (x - mean) / sqrt(var + eps) * weight + bias [+ residual],   spikes = lif(y over T)
"""

import torch
from torch import Tensor

from gee_kernels.lif.reference import lif
from gee_kernels.spikes.reference import pack_spikes


def batch_norm_lif(
    x: Tensor,  # [T*B, C, H, W], time outermost
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
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
    y = torch.nn.functional.batch_norm(
        x.to(weight.dtype), running_mean, running_var, weight, bias, training, momentum, eps
    )
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
    counts = (
        spikes.detach().flatten(2).sum(2, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    )
    return spikes, pack_spikes(spikes.detach()), counts.to(torch.int32)
