"""lif as Triton kernels: spike for spike the reference, gradients to rounding."""

import itertools

import pytest
import torch

from gee_kernels import lif
from gee_kernels.surrogate import SURROGATES
from tests.tolerance import assert_close

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
OPTIONS = [
    {"v_reset": v_reset, "decay_input": decay, "detach_reset": detach, "surrogate": surrogate}
    for v_reset, decay, detach, surrogate in itertools.product(
        (0.0, -0.25, None), *2 * [(True, False)], SURROGATES
    )
]


def both(x, device, voltage=None, **options):
    """Spikes, final voltage and gradients: of the Triton kernels, and of the reference in float64."""
    generator = torch.Generator().manual_seed(x.numel())
    weights = [torch.randn(s, generator=generator) for s in (x.shape, x.shape[1:])]
    results = []
    for backend, dtype, place in (("fused", x.dtype, device), ("reference", torch.float64, "cpu")):
        inputs = [x.to(place, dtype).requires_grad_()]
        if voltage is not None:
            inputs.append(voltage.to(place, torch.promote_types(dtype, torch.float32)).requires_grad_())
        spikes, last = lif(
            inputs[0],
            voltage=inputs[1] if inputs[1:] else None,
            return_voltage=True,
            backend=backend,
            **options,
        )
        grad_spikes = weights[0].to(x.dtype).to(place, dtype)
        loss = (spikes * grad_spikes).sum() + (last * weights[1].to(place, last.dtype)).sum()
        results.append((spikes, last, *torch.autograd.grad(loss, inputs)))
    return zip(*results, strict=True)


def check(x, device, voltage=None, **options):
    (spikes, spikes_ref), (last, last_ref), (grad_x, grad_x_ref), *grad_start = both(
        x, device, voltage, **options
    )
    assert spikes.dtype == x.dtype
    assert torch.equal(spikes.cpu().double(), spikes_ref)
    assert_close(last, last_ref, torch.float32)
    assert_close(grad_x, grad_x_ref, x.dtype)
    for out, ref in grad_start:
        assert_close(out, ref, torch.float32)


def current(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_options(options, triton_device):
    check(current(3, 2, 5), triton_device, voltage=current(2, 5, seed=9), tau=1.5, v_threshold=0.4, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 9, 13, 16])
def test_time_steps(steps, dtype, triton_device):
    x = current(steps, 37, dtype=dtype)
    check(x, triton_device)
    check(x, triton_device, voltage=current(37, seed=1), v_reset=None, detach_reset=False, surrogate="atan")


@pytest.mark.parametrize(
    "shape", [(2,), (4, 1), (3, 511), (3, 513), (1, 2049), (2, 3, 7, 5, 11), (4, 0), (2, 3, 0, 5)], ids=str
)
def test_shapes(shape, triton_device):
    check(current(*shape), triton_device, voltage=current(*shape[1:]) if len(shape) > 1 else None)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 3)),
        lambda x: x.transpose(0, 1),
        lambda x: x[:, 1:, ::2],
        lambda x: x[:, :1].expand(-1, 4, -1, -1, -1),
        lambda x: x.permute(4, 3, 2, 1, 0),
    ],
    ids=["channels_last", "batch_outermost", "sliced", "expanded", "reversed"],
)
def test_strides(view, triton_device):
    x = view(current(2, 3, 4, 5, 6))
    voltage = current(*x.shape[1:])
    check(x, triton_device, voltage=voltage)
    check(x, triton_device, voltage=voltage.transpose(0, 1).contiguous().transpose(0, 1))
    fake = lif(x.to("meta"), return_voltage=True)
    real = lif(x.to(triton_device), return_voltage=True)
    assert [t.stride() for t in real] == [t.stride() for t in fake]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's numpy
def test_extreme_values(triton_device):
    x = torch.tensor([[1e30, -1e30, 0.0, 1e-40, 65504.0, 0.5]] * 3)
    check(x, triton_device, v_threshold=0.25)
    x = torch.tensor([[float("nan"), float("inf"), -float("inf")]] * 2)
    out, ref = (lif(x.to(d), backend=b).cpu() for d, b in ((triton_device, "fused"), ("cpu", "reference")))
    assert torch.equal(out, ref)


def test_no_gradient_wanted_for_the_voltage(triton_device):
    x = current(3, 7).to(triton_device).requires_grad_()
    lif(x, voltage=current(7).to(triton_device), return_voltage=True)[1].sum().backward()
    ref = current(3, 7).double().requires_grad_()
    lif(ref, voltage=current(7), return_voltage=True, backend="reference")[1].sum().backward()
    assert_close(x.grad, ref.grad, torch.float32)


def test_streaming_equals_one_call(triton_device):
    x = current(6, 40).to(triton_device)
    whole, last = lif(x, return_voltage=True)
    first, voltage = lif(x[:2], return_voltage=True)
    second, voltage = lif(x[2:], voltage=voltage, return_voltage=True)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(last, voltage)


@pytest.mark.parametrize("options", [{}, {"voltage": True}], ids=["plain", "voltage"])
def test_opcheck(options, triton_device):
    x = current(3, 2, 5).to(triton_device).requires_grad_()
    voltage = current(2, 5).to(triton_device).requires_grad_() if options else None
    neuron = (2.0, 0.5, 0.0, True, False, "sigmoid", 2.0)
    torch.library.opcheck(torch.ops.gee_kernels.lif.default, (x, voltage, *neuron, True))


def test_float64_is_refused(triton_device):
    with pytest.raises(TypeError, match="float64"):
        lif(torch.zeros(2, 3, dtype=torch.float64, device=triton_device))
