"""`lif`: leaky integrate-and-fire, all T steps in one kernel."""

import torch
from torch import Tensor

from gee_kernels import _library
from gee_kernels.lif import reference
from gee_kernels.surrogate import SURROGATES, Surrogate

# What every operator with a neuron in it takes, in this order (batch_norm_lif too).
NEURON = (
    "float tau, float v_threshold, float? v_reset, bool decay_input, bool detach_reset, "
    "str surrogate, float alpha"
)


# voltage: [...], or [0] where it is not wanted. It is float32, float64 for float64 x.
_library.define(
    "lif", f"(Tensor x, Tensor? voltage, {NEURON}, bool return_voltage) -> (Tensor spikes, Tensor voltage)"
)
# grad_spikes: [T, ...] or None for zeros; grad_voltage (argument): [...] or None for zeros;
# grad_voltage (result), the gradient to the start voltage: [...], or [0] where voltage is None.
_library.define(
    "lif_backward",
    f"(Tensor? grad_spikes, Tensor? grad_voltage, Tensor x, Tensor? voltage, {NEURON})"
    " -> (Tensor grad_x, Tensor grad_voltage)",
)
_library.register_triton("lif", "lif")
_library.register_triton("lif_backward", "lif")


def membrane_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _voltage_like(x: Tensor, wanted: bool) -> Tensor:
    dtype = membrane_dtype(x.dtype)
    return torch.empty_like(x[0], dtype=dtype) if wanted else x.new_empty(0, dtype=dtype)


@torch.library.register_fake("gee_kernels::lif")
def _lif_fake(
    x, voltage, tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha, return_voltage
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _voltage_like(x, return_voltage)


@torch.library.register_fake("gee_kernels::lif_backward")
def _lif_backward_fake(
    grad_spikes,
    grad_voltage,
    x,
    voltage,
    tau,
    v_threshold,
    v_reset,
    decay_input,
    detach_reset,
    surrogate,
    alpha,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _voltage_like(x, voltage is not None)


def _setup_context(ctx, inputs, output) -> None:
    x, voltage, *neuron, _ = inputs
    ctx.save_for_backward(x, voltage)
    ctx.neuron = neuron
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_spikes, grad_voltage):
    x, voltage = ctx.saved_tensors
    grad_x = grad_start = None
    if grad_spikes is not None or grad_voltage is not None:
        grad_x, grad_start = torch.ops.gee_kernels.lif_backward(
            grad_spikes, grad_voltage, x, voltage, *ctx.neuron
        )
    return grad_x, None if voltage is None else grad_start, *[None] * 8


torch.library.register_autograd("gee_kernels::lif", _backward, setup_context=_setup_context)


def lif(
    x: Tensor,
    *,
    tau: float = 2.0,
    v_threshold: float = 0.5,
    v_reset: float | None = 0.0,
    decay_input: bool = True,
    detach_reset: bool = True,
    surrogate: Surrogate = "piecewise_quadratic",
    alpha: float = 2.0,
    voltage: Tensor | None = None,
    return_voltage: bool = False,
    backend: _library.Backend = "fused",
) -> Tensor | tuple[Tensor, Tensor]:
    """Leaky integrate-and-fire neurons over T steps.

        H_t = V_{t-1} + (x_t - (V_{t-1} - v_reset)) / tau      decay_input=True
        H_t = V_{t-1} - (V_{t-1} - v_reset) / tau + x_t        decay_input=False
        s_t = 1[H_t >= v_threshold]
        V_t = v_reset where s_t = 1, else H_t                  hard reset
        V_t = H_t - s_t * v_threshold                          soft reset, v_reset=None (the charge uses 0)

    These are the equations of SpikingJelly's `LIFNode`, in its order of rounding. The membrane H, V is
    float32 whatever the storage type (float64 for float64). Backward keeps x alone and recomputes H.

    Args:
        x: input current `[T, ...]`, T >= 1, any floating type and strides. Under autocast it is cast to
            the autocast type.
        tau: membrane time constant in steps, at least 1.
        v_threshold: the membrane potential from which on a neuron fires.
        v_reset: where the membrane goes after a spike, or None to subtract v_threshold instead.
        decay_input: whether the input is divided by tau as well.
        detach_reset: cut the gradient through the reset.
        surrogate: stands in for ds/dH in backward, at d = H - v_threshold:
            `"piecewise_quadratic"` max(0, alpha - alpha^2 |d|), `"atan"` alpha/2 / (1 + (pi/2 alpha d)^2),
            `"sigmoid"` alpha sig(alpha d) (1 - sig(alpha d)).
        alpha: width of the surrogate, positive.
        voltage: start voltage `[...]`; by default v_reset (0 with soft reset). Gradients flow to it.
        return_voltage: also return the final voltage, to be passed in again with the next steps.
        backend: `"fused"` (C++ or Triton, by device) or `"reference"`.

    Returns:
        spikes `[T, ...]`, zeros and ones in the type and memory layout of x; with `return_voltage`
        also V_T `[...]` in the membrane's type.

    Raises:
        TypeError: x or voltage is not floating point.
        ValueError: x has no time steps, voltage does not fit x, or a neuron parameter is out of range.
    """
    _library.check_backend(backend)
    check_neuron(tau, surrogate, alpha)
    if x.dim() < 1 or x.shape[0] < 1:
        raise ValueError(f"x must be [T, ...] with T >= 1, got {list(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if voltage is not None:
        if voltage.shape != x.shape[1:]:
            raise ValueError(
                f"voltage must be {list(x.shape[1:])} for x {list(x.shape)}, got {list(voltage.shape)}"
            )
        if not voltage.is_floating_point():
            raise TypeError(f"voltage must be floating point, got {voltage.dtype}")
    (x,) = _library.autocast(x)
    if voltage is not None:
        voltage = voltage.to(membrane_dtype(x.dtype))
    neuron = tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha
    if backend == "reference":
        spikes, last = reference.lif(x, voltage, *neuron)
    else:
        spikes, last = torch.ops.gee_kernels.lif(x, voltage, *neuron, return_voltage)
    return (spikes, last) if return_voltage else spikes


def check_neuron(tau: float, surrogate: str, alpha: float) -> None:
    """Raise ValueError where a neuron parameter is out of range."""
    if not tau >= 1:
        raise ValueError(f"tau must be at least 1, got {tau}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if surrogate not in SURROGATES:
        raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}, got {surrogate!r}")
