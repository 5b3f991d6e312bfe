"""batch_norm_lif as Triton kernels: spikes, bits, counts and gradients of the reference."""

import itertools

import pytest
import torch

from gee_kernels import batch_norm_lif, pack_spikes
from gee_kernels.batch_norm_lif import triton_statistics
from gee_kernels.surrogate import SURROGATES
from tests.tolerance import assert_close

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
OPTIONS = [
    {"v_reset": v_reset, "decay_input": decay, "detach_reset": detach, "surrogate": surrogate}
    for (v_reset, decay, detach), surrogate in zip(
        itertools.product((0.0, -0.25, None), *2 * [(True, False)]), itertools.cycle(SURROGATES), strict=False
    )
]


def make(*shape, dtype=torch.float32):
    """x and, for the options, a binary residual, weight, bias, running mean and variance."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = (torch.randn(shape, generator=generator) * 2 + 1).to(dtype)
    residual = (torch.rand(shape, generator=generator) < 0.3).to(dtype)
    weight, bias, mean = (torch.randn(shape[1], generator=generator) + c for c in (1.0, 0.3, 1.0))
    return x, residual, weight, bias, mean, torch.rand(shape[1], generator=generator) + 0.5


def run(x, residual, vectors, backend, device, dtype, packed=False, training=True, **options):
    """(spikes, bits, counts, running_mean, running_var), (gradients to x, weight, bias and residual)"""
    exact = torch.promote_types(dtype, torch.float32)
    inputs = [x.to(device, dtype), *(v.to(device, exact) for v in vectors[:2])]
    if residual is not None:
        inputs.append(residual.to(device, dtype))
    inputs = [t.requires_grad_() for t in inputs]
    running = [v.to(device, exact).clone() for v in vectors[2:]]
    bits = pack_spikes(residual.to(device)) if packed and backend == "fused" else None
    out = batch_norm_lif(
        *inputs[:3],
        *running,
        inputs[3] if residual is not None else None,
        training=training,
        residual_bits=bits,
        backend=backend,
        **options,
    )
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(x.dtype).to(device, dtype)
    grads = torch.autograd.grad((out.spikes * grad).sum(), inputs) if x.numel() else ()
    return (*out, *running), grads


def check(shape, device, dtype=torch.float32, residual=False, packed=False, view=None, **options):
    x, spikes, *vectors = make(*shape, dtype=dtype)
    x, spikes = (t if view is None else view(t) for t in (x, spikes))
    spikes = spikes if residual else None
    options.setdefault("time_steps", 2)
    out, grads = run(x, spikes, vectors, "fused", device, dtype, packed, **options)
    ref, grads_ref = run(x, spikes, vectors, "reference", "cpu", torch.float64, **options)
    assert out[0].dtype == dtype
    for a, b in zip(out[:3], ref[:3], strict=True):  # spikes, bits, counts
        assert torch.equal(a.cpu().double(), b.double())
    for a, b in zip(out[3:], ref[3:], strict=True):
        assert_close(a, b, torch.float32)
    for a, b in zip(grads, grads_ref, strict=True):
        assert_close(a, b, a.dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_options(options, triton_device):
    check((6, 5, 3, 2), triton_device, time_steps=3, tau=1.5, v_threshold=0.4, residual=True, **options)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("residual", ["none", "residual", "bits"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual(dtype, residual, training, triton_device):
    check(
        (8, 19, 3, 3),
        triton_device,
        dtype,
        residual=residual != "none",
        packed=residual == "bits",
        training=training,
        time_steps=4,
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 9, 13])
def test_time_steps(steps, triton_device):
    check((2 * steps, 9, 2, 3), triton_device, time_steps=steps, residual=True, detach_reset=False)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 1, 1, 2),
        (4, 96, 2, 1),
        (2, 8, 5, 7),
        (2, 150, 1, 3),
        (6, 17),
        (4, 7, 13),
        (2, 3, 2, 3, 2),
        (0, 4, 2, 2),
    ],
    ids=str,
)
def test_shapes(shape, triton_device):
    check(shape, triton_device)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, 1::2, ::2],
    ],
    ids=["channels_last", "transposed", "sliced"],
)
def test_strides(view, triton_device):
    x, _, *vectors = make(4, 12, 5, 3)
    x = view(x)
    vectors = [v[: x.shape[1]] for v in vectors]
    options = {"time_steps": 2}
    out, grads = run(x, x.round(), vectors, "fused", triton_device, torch.float32, **options)
    ref, grads_ref = run(x, x.round(), vectors, "reference", "cpu", torch.float64, **options)
    assert torch.equal(out[0].cpu().double(), ref[0])
    for a, b in zip(grads, grads_ref, strict=True):
        assert_close(a, b, torch.float32)


def check_statistics(x, device, factor=1.0):
    zeros = torch.zeros(x.shape[1])
    vectors = [zeros + 1, zeros, zeros, zeros]
    (*_, mean, var), _ = run(x, None, vectors, "fused", device, torch.float32, time_steps=1, momentum=1.0)
    rows = x.double().movedim(1, -1).flatten(0, -2)
    for channel in range(x.shape[1]):
        assert_close(mean[channel], rows.mean(0)[channel], torch.float32, factor)
        assert_close(var[channel], rows.var(0)[channel], torch.float32, factor)


def test_statistics_of_many_rows(triton_device, monkeypatch):
    x = make(1, 3, 31, 47)[0]
    check_statistics(x, triton_device)
    monkeypatch.setattr(triton_statistics, "PARTS", 2)  # parts of several tiles
    check_statistics(x, triton_device)


def test_statistics_far_from_zero(triton_device):
    """The mean is 5,000 deviations from 0: x - mean keeps 11 of float32's 24 bits."""
    check_statistics(make(1, 2, 31, 19)[0] + 1e4, triton_device, factor=20)


def test_statistics_with_one_outlier(triton_device):
    x = make(1, 2, 31, 19)[0] * 1e-3
    x[0, 0, 3, 4] = 1e6
    check_statistics(x, triton_device)


def test_parts_of_several_blocks(triton_device, monkeypatch):
    """More rows than partial sums: every program of backward's first pass takes several blocks."""
    monkeypatch.setattr(triton_statistics, "PARTS", 2)
    for steps in (2, 9):
        check((2 * steps, 20, 5, 7), triton_device, time_steps=steps, residual=True)


def test_every_neuron_fires_where_the_threshold_is_negative(triton_device):
    """What a tile holds beyond the tensor is neither packed nor counted."""
    x, _, *vectors = make(2, 3, 3, 5)
    vectors[0] = torch.zeros(3)
    vectors[1] = torch.ones(3)
    (spikes, bits, counts, *_), _ = run(
        x, None, vectors, "fused", triton_device, torch.float32, time_steps=1, v_threshold=-1.0
    )
    assert spikes.min() == 1
    assert (bits == 0b111).all()
    assert (counts == 15).all()


def test_repeated_runs_are_equal_bit_for_bit(triton_device):
    x, residual, *vectors = make(4, 20, 9, 7)
    first, second = (
        run(x, residual, vectors, "fused", triton_device, torch.float32, time_steps=2) for _ in range(2)
    )
    for a, b in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_opcheck(training, triton_device):
    x, residual, weight, bias, mean, var = (t.to(triton_device) for t in make(4, 3, 2, 2))
    given = (None, None) if training else (mean, var)
    neuron = (2.0, 0.5, 0.0, True, True, "sigmoid", 2.0)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    arguments = (*leaves, *given, residual, None, 2, 1e-5, *neuron)
    torch.library.opcheck(torch.ops.gee_kernels.batch_norm_lif.default, arguments)
