"""`genetic_conv2d_lif` against the reference: convolution, folded norm, residual and neuron, all T steps."""

import pytest
import torch

from gee_kernels import genetic_conv2d_lif, pack_spikes, unpack_spikes
from gee_kernels.genetic_conv2d_lif import reference

PLANS = ["reconstruct", "gene", "event", "auto"]
NEURONS = {
    "default": {},
    "soft reset": {"v_reset": None},
    "reset below zero": {"v_reset": -0.25, "v_threshold": 1.0},
    "tau 3, undecayed input": {"tau": 3.0, "decay_input": False},
}
# T, B, C_in, C_out, g, K, stride, padding, H, W
SHAPES = {
    "plain": (4, 2, 16, 24, 7, 3, 1, 1, 8, 8),
    "stride 2, odd": (3, 3, 5, 9, 7, 3, 2, 1, 7, 5),
    "one of everything": (1, 1, 1, 1, 1, 3, 1, 1, 1, 1),
    "several slabs": (2, 5, 3, 130, 4, 3, 1, 1, 50, 50),
    "empty batch": (4, 0, 16, 24, 7, 3, 1, 1, 8, 8),
}


def layer(shape, dtype=torch.float32, density=0.3, seed=0):
    """x, codes, scale, shift, residual, and stride, padding, time_steps."""
    steps, samples, c_in, c_out, genes, k, stride, padding, height, width = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    x = (torch.rand(steps * samples, c_in, height, width, generator=generator) < density).to(dtype)
    pre, interaction, post = normal(c_in, genes, k, k), normal(genes, genes), normal(c_out, genes, k, k)
    out_h, out_w = ((s + 2 * padding - k) // stride + 1 for s in (height, width))
    vectors = torch.float64 if dtype == torch.float64 else torch.float32
    scale = normal(c_out).to(vectors) / (genes * 3)
    shift = normal(c_out).to(vectors)
    residual = (normal(steps * samples, c_out, out_h, out_w) > 0).to(dtype)
    return [x, pre, interaction, post, scale, shift, residual], stride, padding, steps


def agree(out, tensors, stride, padding, steps, neuron, dtype):
    """Spikes equal the reference's wherever its membrane is not within rounding of the threshold."""
    options = {"tau": 2.0, "v_threshold": 0.5, "v_reset": 0.0, "decay_input": True} | neuron
    exact = [None if t is None else t.double() for t in tensors]
    expected, _, _ = reference.genetic_conv2d_lif(*exact, stride, padding, steps, **options)
    assert out.spikes.dtype == dtype
    assert out.spikes.shape == expected.shape
    differ = (out.spikes.double() != expected).double().mean().item() if expected.numel() else 0.0
    assert differ <= {torch.float64: 0, torch.float32: 2e-5, torch.bfloat16: 2e-3}[dtype]
    assert torch.equal(out.bits, pack_spikes(out.spikes))
    assert torch.equal(out.counts, out.spikes.flatten(2).sum(2, dtype=torch.float64).to(torch.int32))
    if expected.numel() > 100:
        assert 0.02 < expected.mean() < 0.98  # there is something to tell apart


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", SHAPES)
def test_against_the_reference(plan, name):
    tensors, stride, padding, steps = layer(SHAPES[name])
    out = genetic_conv2d_lif(*tensors, stride=stride, padding=padding, plan=plan, time_steps=steps)
    agree(out, tensors, stride, padding, steps, {}, torch.float32)


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
@pytest.mark.parametrize("with_residual", [True, False])
def test_every_neuron_exact_in_double(neuron, with_residual):
    tensors, stride, padding, steps = layer(SHAPES["plain"], torch.float64)
    tensors[6] = tensors[6] if with_residual else None
    out = genetic_conv2d_lif(*tensors, stride=stride, padding=padding, time_steps=steps, **neuron)
    agree(out, tensors, stride, padding, steps, neuron, torch.float64)


def test_bfloat16_and_autocast():
    tensors, stride, padding, steps = layer(SHAPES["plain"])
    rounded = [t.bfloat16().float() if i not in (4, 5) else t for i, t in enumerate(tensors)]
    stored = [t.bfloat16() if i not in (4, 5) else t for i, t in enumerate(tensors)]
    out = genetic_conv2d_lif(*stored, stride=stride, padding=padding, time_steps=steps)
    agree(out, rounded, stride, padding, steps, {}, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = genetic_conv2d_lif(*tensors, stride=stride, padding=padding, time_steps=steps)
    assert torch.equal(cast.spikes, out.spikes)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ["plain", "several slabs"])
def test_bits_stand_for_x(plan, name):
    tensors, stride, padding, steps = layer(SHAPES[name], density=0.05)
    options = {"stride": stride, "padding": padding, "plan": plan, "time_steps": steps}
    plain = genetic_conv2d_lif(*tensors, **options)
    packed = genetic_conv2d_lif(*tensors, **options, bits=pack_spikes(tensors[0]))
    assert torch.equal(plain.bits, packed.bits)


def test_layers_chain_by_bits():
    tensors, _, _, steps = layer((4, 2, 16, 16, 7, 3, 1, 1, 8, 8))
    first = genetic_conv2d_lif(*tensors, time_steps=steps)
    assert torch.equal(unpack_spikes(first.bits, 16), first.spikes)
    second = genetic_conv2d_lif(first.spikes, *tensors[1:], time_steps=steps, bits=first.bits)
    agree(second, [first.spikes, *tensors[1:]], 1, 1, steps, {}, torch.float32)


@pytest.mark.parametrize("plan", PLANS)
def test_number_of_threads_changes_no_bit(plan):
    tensors, stride, padding, steps = layer(SHAPES["several slabs"])
    threads, outs = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            options = {"stride": stride, "padding": padding, "plan": plan, "time_steps": steps}
            outs.append(genetic_conv2d_lif(*tensors, **options))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))


def test_any_strides():
    tensors, stride, padding, steps = layer(SHAPES["plain"])
    expected = genetic_conv2d_lif(*tensors, stride=stride, padding=padding, time_steps=steps)
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    tensors[6] = tensors[6].transpose(2, 3).contiguous().transpose(2, 3)
    out = genetic_conv2d_lif(*tensors, stride=stride, padding=padding, time_steps=steps)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))
    assert out.spikes.is_contiguous(memory_format=torch.channels_last)


def test_opcheck_and_compile():
    tensors, stride, padding, steps = layer(SHAPES["stride 2, odd"])
    for bits in (None, pack_spikes(tensors[0])):
        torch.library.opcheck(
            torch.ops.gee_kernels.genetic_conv2d_lif.default,
            (*tensors, bits, stride, padding, steps, 2.0, 0.5, None, True, "reconstruct", -1.0),
        )
    torch._dynamo.reset()

    def function(*args):
        return genetic_conv2d_lif(*args, stride=stride, padding=padding, time_steps=steps)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(*tensors), function(*tensors), strict=True))


def test_reference_backend():
    tensors, stride, padding, steps = layer(SHAPES["plain"])
    for other in ({"backend": "reference"}, {"plan": "materialize"}):
        out = genetic_conv2d_lif(*tensors, stride=stride, padding=padding, time_steps=steps, **other)
        agree(out, tensors, stride, padding, steps, {}, torch.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": torch.ones(23)}, ValueError, r"scale must be \[24\], got \[23\]"),
        ({"shift": torch.ones(24, 1)}, ValueError, r"shift must be \[24\]"),
        ({"time_steps": 3}, ValueError, "time_steps must divide x's first dimension 8, got 3"),
        ({"residual": torch.ones(8, 24, 8, 7)}, ValueError, r"residual must be \[8, 24, 8, 8\]"),
        ({"tau": 0.5}, ValueError, "tau must be"),
        ({"plan": "dense"}, ValueError, "plan must be one of"),
        ({"x": torch.ones(8, 16, 8, 8, requires_grad=True)}, RuntimeError, r"torch.no_grad\(\)"),
    ],
)
def test_errors_name_the_parameter(changes, error, message):
    tensors, _, _, steps = layer(SHAPES["plain"])
    names = ("x", "pre", "interaction", "post", "scale", "shift", "residual")
    arguments = dict(zip(names, tensors, strict=True)) | {"time_steps": steps} | changes
    with pytest.raises(error, match=message):
        genetic_conv2d_lif(**arguments)
