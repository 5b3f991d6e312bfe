"""Inference: convolution with decoded weights, folded norm, residual and LIF over all T steps.

y = genetic_conv2d(x, ...) * scale + shift [+ residual],   spikes = lif(y over T)
"""

import torch
from torch import Tensor

from gee_kernels.genetic_conv2d.reference import genetic_conv2d
from gee_kernels.lif.reference import lif
from gee_kernels.spikes.reference import pack_spikes


def genetic_conv2d_lif(
    x: Tensor,  # [T*B, C_in, H, W], time outermost
    pre: Tensor,  # [C_in, g, K, K]
    interaction: Tensor,  # [g, g]
    post: Tensor,  # [C_out, g, K, K]
    scale: Tensor,  # [C_out]
    shift: Tensor,  # [C_out]
    residual: Tensor | None,  # [T*B, C_out, H', W']
    stride: int,
    padding: int,
    time_steps: int,
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
) -> tuple[
    Tensor, Tensor, Tensor
]:  # spikes [T*B, C_out, H', W'], bits [.., H', W', ceil(C/8)], counts [T*B, C_out]
    y = genetic_conv2d(x, pre, interaction, post, stride, padding)
    y = y * scale[:, None, None] + shift[:, None, None]
    if residual is not None:
        y = y + residual
    spikes, _ = lif(
        y.unflatten(0, (time_steps, -1)), None, tau, v_threshold, v_reset, decay_input, True, "atan", 1.0
    )
    spikes = spikes.flatten(0, 1)
    return spikes, pack_spikes(spikes), spikes.flatten(2).sum(2, dtype=torch.float64).to(torch.int32)
