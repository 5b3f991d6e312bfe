"""What the fitness rewards beside the cross-entropy: variety in time and in the interaction of the genes."""

import math

import torch
from torch import Tensor

EPS = 1e-8  # of Eq. 13's denominator, for silent outputs


def temporal_difference(step_logits: Tensor) -> Tensor:
    """TD of each sample, `[B]`, from the logits of every step, `[T, B, classes]`; zero where T is 1.

    mean_t |o_{t+1} - o_t|^2 / (mean_t |o_t|^2 + eps)                                       Eq. 13
    """
    o = step_logits.double()
    if len(o) < 2:
        return o.new_zeros(o.shape[1])
    change = (o[1:] - o[:-1]).square().sum(-1).mean(0)
    return change / (o.square().sum(-1).mean(0) + EPS)


def spatial_entropy(interaction: Tensor) -> Tensor:
    """SE of the gene interaction `[g, g]`, a scalar in [0, 1]; zero for one gene and for an all-zero matrix.

    P = |G| / sum |G|,   SE = -sum P ln P / ln(g^2)                                      Eqs. 14-15
    """
    G = interaction.detach().double().abs()
    total = G.sum()
    if G.numel() < 2 or total == 0:
        return total.new_zeros(())
    P = G / total
    return torch.special.entr(P).sum() / math.log(G.numel())
