"""Synaptic operations that binary spikes cause, counted exactly, in plain PyTorch.

spikes[n] = sum_{p, c} s[n, p, c],   accumulations[n] = sum_{p, c} s[n, p, c] * fan_out[p]
"""

import torch
from torch import Tensor


def count_synapses(bits: Tensor, fan_out: Tensor) -> Tensor:
    # bits: [N, *space, ceil(C / 8)] uint8, fan_out: [*space] int64 -> [N, 2] int64
    spread = (bits.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    spikes = spread.flatten(-2).sum(-1, dtype=torch.int64)  # [N, *space]
    both = torch.stack([spikes, spikes * fan_out], 1)  # [N, 2, *space]
    return both.unsqueeze(-1).flatten(2).sum(2)
