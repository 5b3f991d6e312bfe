"""Spikes at one bit each, in plain PyTorch.

Channels are packed, because a channels-last kernel meets them side by side: bit i of byte j is channel
8 j + i; the unused bits of the last byte are 0.
"""

import torch
from torch import Tensor


def pack_spikes(x: Tensor) -> Tensor:
    # x: [N, C, *space] -> [N, *space, ceil(C / 8)] uint8
    bits = (x != 0).movedim(1, -1).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -x.shape[1] % 8))
    bits = bits.unflatten(-1, (-1, 8))  # [N, *space, bytes, 8]
    return (bits << torch.arange(8, dtype=torch.uint8, device=x.device)).sum(-1, dtype=torch.uint8)


def unpack_spikes(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    # bits: [N, *space, ceil(C / 8)] uint8 -> [N, C, *space], channels-last in memory
    spread = (bits.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    return spread.flatten(-2)[..., :channels].to(dtype).movedim(-1, 1)
