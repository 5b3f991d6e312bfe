"""genetic_conv2d_lif as a Triton kernel: the spikes of the reference, unless a membrane is near threshold."""

import pytest
import torch

from gee_kernels import genetic_conv2d_lif, pack_spikes
from gee_kernels.genetic_conv2d.reference import genetic_conv2d
from gee_kernels.lif.reference import charge

PLANS = ["reconstruct", "gene"]
HARD = {"tau": 2.0, "v_threshold": 0.5, "v_reset": 0.0, "decay_input": True}
SOFT = {"tau": 1.5, "v_threshold": 1.0, "v_reset": None, "decay_input": False}


def make(steps, batch, c_in, c_out, genes, height, width, dtype, device):
    generator = torch.Generator().manual_seed(steps + c_in + width)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    x = (torch.rand(steps * batch, c_in, height, width, generator=generator) < 0.4).float()
    codes = normal(c_in, genes, 3, 3), normal(genes, genes), normal(c_out, genes, 3, 3)
    scale = (0.5 + torch.rand(c_out, generator=generator)) / (genes * (3 * c_in) ** 0.5)
    return [t.to(device, dtype) for t in (x, *codes)], [
        t.to(device) for t in (scale, 0.3 + normal(c_out) / 4)
    ]


def expected(
    x, pre, interaction, post, scale, shift, residual, stride, steps, tau, v_threshold, v_reset, decay_input
):
    """spikes [T, ...] and how near each H came to the threshold, in float64."""
    x, pre, interaction, post, scale, shift = (t.double() for t in (x, pre, interaction, post, scale, shift))
    y = genetic_conv2d(x, pre, interaction, post, stride, 1) * scale[:, None, None] + shift[:, None, None]
    y = y if residual is None else y + residual.double()
    rest = v_reset or 0.0
    v, spikes, margins = torch.full_like(y[: len(y) // steps], rest), [], []
    for current in y.unflatten(0, (steps, -1)):
        h = charge(current, v, tau, rest, decay_input)
        s = (h >= v_threshold).double()
        v = h - s * v_threshold if v_reset is None else s * v_reset + (1 - s) * h
        spikes.append(s)
        margins.append((h - v_threshold).abs())
    return torch.stack(spikes), torch.stack(margins)


def check(tensors, affine, steps, *, residual=None, stride=1, neuron=HARD, near=1e-5, **options):
    out = genetic_conv2d_lif(
        *tensors, *affine, residual, stride=stride, time_steps=steps, **neuron, **options
    )
    spikes, margins = expected(*tensors, *affine, residual, stride, steps, **neuron)
    sure = margins.cummin(0).values > near  # an uncertain spike makes all later ones uncertain
    assert sure.double().mean() > 0.8
    assert 0.02 < spikes.mean() < 0.98
    found = out.spikes.unflatten(0, (steps, -1)).double()
    assert torch.equal(found[sure], spikes[sure])
    assert torch.equal(out.bits, pack_spikes(out.spikes, backend="reference"))
    assert torch.equal(out.counts.long(), out.spikes.flatten(2).double().sum(2).long())
    assert out.counts.dtype == torch.int32
    assert out.spikes.dtype == tensors[0].dtype
    assert out.spikes.permute(0, 2, 3, 1).is_contiguous()
    return out


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8])
def test_time_steps(steps, plan, triton_device):
    tensors, affine = make(steps, 2, 3, 5, 4, 3, 4, torch.float32, triton_device)
    check(tensors, affine, steps, plan=plan)


@pytest.mark.parametrize("neuron", [HARD, SOFT, HARD | {"v_reset": -0.3}, SOFT | {"decay_input": True}])
def test_neurons(neuron, triton_device):
    tensors, affine = make(4, 1, 3, 9, 4, 3, 3, torch.float32, triton_device)
    residual = torch.randint(0, 2, (4, 9, 3, 3), generator=torch.Generator().manual_seed(1)).float()
    check(tensors, affine, 4, residual=residual.to(triton_device), neuron=neuron, plan="gene")


@pytest.mark.parametrize("plan", PLANS)
def test_tiles(plan, triton_device):
    # Five images in tiles of two, 12 of 16 pixels; 40 channels in two tiles, five bytes of bits.
    tensors, affine = make(2, 5, 4, 40, 20, 5, 7, torch.float32, triton_device)
    check(tensors, affine, 2, stride=2, plan=plan)
    # One image in tiles of pixels.
    tensors, affine = make(4, 1, 2, 3, 2, 4, 5, torch.float32, triton_device)
    check(tensors, affine, 4, plan=plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_16_bit_and_bits(dtype, near, plan, triton_device):
    tensors, affine = make(2, 2, 9, 8, 16, 3, 3, dtype, triton_device)
    values = check(tensors, affine, 2, near=near, plan=plan)
    bits = pack_spikes(tensors[0])
    tensors[0] = torch.full_like(tensors[0], float("nan"))  # the bits are read, not the values
    packed = genetic_conv2d_lif(*tensors, *affine, time_steps=2, plan=plan, bits=bits)
    assert all(torch.equal(a, b) for a, b in zip(values, packed, strict=True))


def test_strides(triton_device):
    tensors, affine = make(2, 1, 6, 4, 3, 4, 5, torch.float32, triton_device)
    tensors[0] = tensors[0].transpose(2, 3)
    residual = torch.randn(5, 4, 4, 2, generator=torch.Generator().manual_seed(3)).to(triton_device)
    check(tensors, affine, 2, residual=residual.permute(3, 1, 0, 2), plan="gene")


def test_empty_batch(triton_device):
    tensors, affine = make(2, 0, 3, 4, 2, 3, 3, torch.float32, triton_device)
    out = genetic_conv2d_lif(*tensors, *affine, time_steps=2, plan="gene")
    assert [list(t.shape) for t in out] == [[0, 4, 3, 3], [0, 3, 3, 1], [0, 4]]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_extreme_values(triton_device):
    tensors, (scale, shift) = make(2, 1, 2, 3, 2, 2, 2, torch.float32, triton_device)
    shift[:] = torch.tensor([float("inf"), float("-inf"), float("nan")])
    out = genetic_conv2d_lif(*tensors, scale, shift, time_steps=2, plan="gene")
    assert out.counts[0].tolist() == [4, 0, 0]
    assert torch.equal(out.bits, pack_spikes(out.spikes, backend="reference"))
