"""Surrogate derivatives of the spike, ds/dH at distance x = H - v_threshold (SpikingJelly's names)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Surrogate = Literal["piecewise_quadratic", "atan", "sigmoid"]
SURROGATES: tuple[str, ...] = get_args(Surrogate)


def derivative(x: Tensor, surrogate: str, alpha: float) -> Tensor:
    """ds/dH at x = H - v_threshold, same shape and dtype as x."""
    if surrogate == "piecewise_quadratic":
        return (alpha - alpha**2 * x.abs()).clamp_min(0)
    if surrogate == "atan":
        return alpha / 2 / (1 + (math.pi / 2 * alpha * x).square())
    if surrogate == "sigmoid":
        s = torch.sigmoid(alpha * x)
        return alpha * s * (1 - s)
    raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}, got {surrogate!r}")


class _Spike(torch.autograd.Function):
    """Heaviside step forward, surrogate derivative backward."""

    @staticmethod
    def forward(ctx, x: Tensor, surrogate: str, alpha: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate, ctx.alpha = surrogate, alpha
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * derivative(x, ctx.surrogate, ctx.alpha), None, None


def spike(x: Tensor, surrogate: str, alpha: float) -> Tensor:
    """1 where x >= 0, else 0, with the surrogate derivative behind it."""
    return _Spike.apply(x, surrogate, alpha)
