"""Batch normalisation over the joint batch of all processes, into spiking neurons.

The fused operator sees one process's images. Where the statistics are to cover those of all processes, they
are sums exchanged by an all-reduce that autograd knows, and the neurons follow as an operator of their own.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor

import gee_kernels
from gee_kernels._library import Backend


def batch_norm_lif(
    x: Tensor,  # [T*B, C, H, W], B the images of this process
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    running_mean: Tensor,  # [C], updated in place
    running_var: Tensor,  # [C], updated in place
    residual: Tensor | None = None,  # [T*B, C, H, W]
    *,
    time_steps: int,
    training: bool,
    momentum: float,
    eps: float,
    backend: Backend,
    **neuron: Any,
) -> gee_kernels.BatchNormLIF:
    """`gee_kernels.batch_norm_lif`; in training with mean and variance over the images of all processes.

    The arguments and what is returned are that operator's. Backward sums the gradients of the statistics over
    the processes, so averaging the gradients of all processes gives the gradient of the mean of their losses.
    """
    if not training:
        shared: dict[str, Any] = {"time_steps": time_steps, "training": False, "eps": eps, "backend": backend}
        return gee_kernels.batch_norm_lif(
            x, weight, bias, running_mean, running_var, residual, **shared, **neuron
        )
    dims = (0, 2, 3)
    values = x.to(weight.dtype)
    count = _sum_over_processes(values.new_tensor([values.numel() / values.shape[1]]))
    mean = _sum_over_processes(values.sum(dims)) / count  # [C]
    centred = values - mean[:, None, None]
    variance = _sum_over_processes(centred.square().sum(dims)) / count  # [C]
    with torch.no_grad():
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * count / (count - 1), momentum)  # unbiased, as torch keeps it
    y = centred * (weight * torch.rsqrt(variance + eps))[:, None, None] + bias[:, None, None]
    y = y if residual is None else y + residual
    y = y.contiguous(memory_format=torch.channels_last)
    fired: Any = gee_kernels.lif(y.unflatten(0, (time_steps, -1)), **neuron, backend=backend)
    spikes: Tensor = fired.flatten(0, 1).to(x.dtype)
    counts = spikes.detach().sum((2, 3), dtype=torch.float32).to(torch.int32)
    bits = gee_kernels.pack_spikes(spikes.detach(), backend=backend)
    return gee_kernels.BatchNormLIF(spikes, bits, counts)


def _sum_over_processes(x: Tensor) -> Tensor:
    return differentiable.all_reduce(x) if dist.is_initialized() else x
