"""Leaky integrate-and-fire over T steps, in plain PyTorch.

    H_t = V_{t-1} + (x_t - (V_{t-1} - v_reset)) / tau      decay_input=True
    H_t = V_{t-1} - (V_{t-1} - v_reset) / tau + x_t        decay_input=False
    s_t = 1[H_t >= v_threshold]
    V_t = s_t * v_reset + (1 - s_t) * H_t                  hard reset
    V_t = H_t - s_t * v_threshold                          soft reset, v_reset is None

The membrane is float32 whatever the storage type (float64 for float64).
"""

import torch
from torch import Tensor

from gee_kernels import surrogate as _surrogate


def lif(
    x: Tensor,  # [T, ...]
    voltage: Tensor | None,  # [...], the start voltage; None: v_reset, or 0 with soft reset
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    decay_input: bool,
    detach_reset: bool,
    surrogate: str,
    alpha: float,
) -> tuple[Tensor, Tensor]:  # spikes [T, ...] in x.dtype, voltage [...] in the membrane's dtype
    membrane = torch.promote_types(x.dtype, torch.float32)
    rest = 0.0 if v_reset is None else v_reset
    v = x.new_full(x.shape[1:], rest, dtype=membrane) if voltage is None else voltage.to(membrane)
    spikes = []
    for current in x.to(membrane).unbind(0):
        h = charge(current, v, tau, rest, decay_input)
        s = _surrogate.spike(h - v_threshold, surrogate, alpha)
        r = s.detach() if detach_reset else s
        v = h - r * v_threshold if v_reset is None else r * v_reset + (1 - r) * h
        spikes.append(s)
    return torch.stack(spikes).to(x.dtype), v


def charge(current: Tensor, v: Tensor, tau: float, rest: float, decay_input: bool) -> Tensor:
    """H_t, in the order in which SpikingJelly's LIFNode rounds it."""
    return v + (current - (v - rest)) / tau if decay_input else v - (v - rest) / tau + current
