"""Representational dissimilarity of the images of a batch, in plain PyTorch.

x_b in {0, 1}^N are image b's spikes: N = T * C * positions, all T steps one after the other. Everything
follows from the spikes that two images share, an integer matrix whose diagonal is each image's own spikes:

    c_ij = sum_n x_in x_jn = |x_i AND x_j|,    n_i = c_ii
    |x_i XOR x_j| = n_i + n_j - 2 c_ij

    hamming      d_ij = |x_i XOR x_j| / N
    cosine       d_ij = 1 - c_ij / sqrt(n_i n_j)
    correlation  d_ij = 1 - (N c_ij - n_i n_j) / sqrt(v_i v_j),    v_i = n_i (N - n_i)

Where a root is 0 (a silent image; for the correlation also one whose neurons all fire) no angle is defined:
d_ij is 0 for equal vectors and 1 for others.
"""

import torch
from torch import Tensor


def spike_overlaps(bits: Tensor, time_steps: int) -> Tensor:
    # bits: [T * B, *space, ceil(C / 8)] uint8 -> [B, B] int64
    steps = bits.reshape(time_steps, bits.shape[0] // time_steps, bits[:1].numel())
    spread = (steps.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    x = spread.transpose(0, 1).flatten(1).double()  # [B, N]; float64 is exact up to 2^53 spikes
    return (x @ x.T).long()


def dissimilarities(overlaps: Tensor, neurons: int, metric: str) -> Tensor:
    # overlaps: [B, B] int64, neurons: N -> [B, B] float64
    spikes = overlaps.diagonal()  # [B]
    differ = spikes[:, None] + spikes - 2 * overlaps
    if metric == "hamming":
        return differ.double() / max(neurons, 1)
    if metric == "cosine":
        product, length = overlaps, spikes.double()
    else:
        product = neurons * overlaps - spikes[:, None] * spikes
        length = (spikes * (neurons - spikes)).double()
    root = (length[:, None] * length).sqrt()
    return torch.where(root > 0, 1 - product / root, (differ != 0).double())
