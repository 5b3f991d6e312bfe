"""lif against the libraries that people come from, spike for spike.

SpikingJelly's LIFNode: the same equations in all settings, in the same order of rounding, so spikes, voltages
and (with sums of two terms at most) gradients are equal.

snnTorch's Leaky computes U_t = beta U_{t-1} + x_t and resets by its own spike at once with reset_delay=False.
That is decay_input=False with beta = 1 - 1/tau, reset_mechanism "zero" for v_reset=0 and "subtract" for
None, and detach_reset=False, where
- the voltage stays below the threshold after a subtraction (Leaky would subtract once more a step later), so
  x_t < 2 v_threshold - beta v_threshold here,
- no voltage hits the threshold exactly (Leaky fires above it, lif from it on),
- beta v and v - v / tau round alike: tau is a power of two.

Norse's LIFBox computes v + dt / tau (v_leak - v + i) and resets through the spike: decay_input=True, v_leak =
v_reset = 0, dt = 1, detach_reset=False. It fires above the threshold too. Its surrogate "triangle",
alpha max(0, 1 - |d|), is piecewise_quadratic at alpha = 1.
"""

import pytest
import torch

from gee_kernels import lif
from tests.tolerance import assert_close


def current(steps: int, scale: float = 1.0, high: float = 3.0) -> torch.Tensor:
    x = torch.randn(steps, 5, 131, generator=torch.Generator().manual_seed(steps)) * scale + 0.3
    return x.clamp(max=high).requires_grad_()


def gradients(spikes, last, *inputs):
    """Gradients of a fixed linear function of the spikes and of the final voltage."""
    generator = torch.Generator().manual_seed(5)
    grads = [torch.randn(r.shape, generator=generator) for r in (spikes, last)]
    return torch.autograd.grad([spikes, last], inputs, grads)


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, -0.3, None])
@pytest.mark.parametrize(
    ("surrogate", "theirs"),
    [("piecewise_quadratic", "PiecewiseQuadratic"), ("atan", "ATan"), ("sigmoid", "Sigmoid")],
)
@pytest.mark.parametrize("tau", [2.0, 1.7])
def test_spikingjelly(tau, surrogate, theirs, v_reset, decay_input, detach_reset, steps):
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based import surrogate as surrogates

    x = current(steps)
    node = neuron.LIFNode(
        tau=tau,
        decay_input=decay_input,
        v_threshold=0.6,
        v_reset=v_reset,
        surrogate_function=getattr(surrogates, theirs)(alpha=2.5),
        detach_reset=detach_reset,
        step_mode="m",
    )
    expected = node(x)
    spikes, last = lif(
        x,
        tau=tau,
        v_threshold=0.6,
        v_reset=v_reset,
        decay_input=decay_input,
        detach_reset=detach_reset,
        surrogate=surrogate,
        alpha=2.5,
        return_voltage=True,
    )
    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(spikes, expected)
    assert torch.equal(last, node.v)
    assert_close(*gradients(spikes, last, x), *gradients(expected, node.v, x), torch.float32)


@pytest.mark.parametrize("steps", [1, 4, 16])
@pytest.mark.parametrize("tau", [2.0, 4.0])
@pytest.mark.parametrize(("reset", "v_reset"), [("zero", 0.0), ("subtract", None)])
def test_snntorch(reset, v_reset, tau, steps):
    import snntorch

    beta, threshold = 1 - 1 / tau, 0.5
    x = current(steps, 0.5, high=0.99 * (2 - beta) * threshold)
    cell = snntorch.Leaky(
        beta,
        threshold=threshold,
        spike_grad=snntorch.surrogate.atan(alpha=2.0),
        reset_mechanism=reset,
        reset_delay=False,
    )
    voltage = torch.zeros_like(x[0])
    expected = []
    for step in x:
        spike, voltage = cell(step, voltage)
        expected.append(spike)
    expected = torch.stack(expected)
    spikes, last = lif(
        x,
        tau=tau,
        v_threshold=threshold,
        v_reset=v_reset,
        decay_input=False,
        detach_reset=False,
        surrogate="atan",
        alpha=2.0,
        return_voltage=True,
    )
    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(spikes, expected)
    assert_close(last, voltage, torch.float32)
    assert_close(*gradients(spikes, last, x), *gradients(expected, voltage, x), torch.float32)


@pytest.mark.parametrize("steps", [1, 4, 16])
@pytest.mark.parametrize("tau", [2.0, 3.0])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_norse(v_reset, tau, steps):
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters
    from norse.torch.functional.reset import reset_subtract, reset_value
    from norse.torch.module.lif_box import LIFBoxCell

    x = current(steps)
    parameters = LIFBoxParameters(
        tau_mem_inv=torch.tensor(1 / tau),
        v_th=torch.tensor(0.4),
        v_leak=torch.tensor(0.0),
        v_reset=torch.tensor(0.0),
        method="triangle",
        alpha=1.0,
        reset_method=reset_subtract if v_reset is None else reset_value,
    )
    cell = LIFBoxCell(parameters, dt=1.0)
    state = LIFBoxFeedForwardState(v=torch.zeros_like(x[0]))
    expected = []
    for step in x:
        spike, state = cell(step, state)
        expected.append(spike)
    expected = torch.stack(expected)
    spikes, last = lif(
        x, tau=tau, v_threshold=0.4, v_reset=v_reset, detach_reset=False, alpha=1.0, return_voltage=True
    )
    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(spikes, expected)
    assert_close(last, state.v, torch.float32)
    assert_close(*gradients(spikes, last, x), *gradients(expected, state.v, x), torch.float32)
