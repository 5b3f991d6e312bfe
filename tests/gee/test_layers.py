"""Layers: each is the operators it names, and remembers its spikes."""

import pytest
import torch

import gee_kernels
from gee.layers import (
    Activity,
    DeployedConv2d,
    Neuron,
    SpikingConv2d,
    SpikingLinear,
    average_to,
    avg_pool,
    max_pool,
)

OPTIONS = {"neuron": Neuron(), "plan": "auto", "backend": "fused"}


def spikes(*shape: int, seed: int = 0) -> torch.Tensor:
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def activity(*shape: int, time_steps: int = 2, genes: int = 3) -> Activity:
    x = spikes(*shape)
    encoding = torch.randn(shape[1], genes, 3, 3, generator=torch.Generator().manual_seed(1))
    return Activity(x, time_steps, gee_kernels.pack_spikes(x), encoding, binary=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_spiking_conv_is_convolution_norm_and_neurons(stride, residual):
    torch.manual_seed(0)
    layer = SpikingConv2d(5, 9, genes=3, stride=stride, **OPTIONS)
    torch.nn.init.normal_(layer.encoding)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x, interaction = activity(6, 5, 7, 8), torch.randn(3, 3)
    size = (6, 9, 7, 8) if stride == 1 else (6, 9, 4, 4)
    r = spikes(*size, seed=3) if residual else None
    out = layer(x, interaction, r)
    weight = gee_kernels.decode_weight(x.encoding, interaction, layer.encoding, backend="reference")
    current = torch.nn.functional.conv2d(x.values.double(), weight.double(), stride=stride, padding=1)
    mean, var = current.mean((0, 2, 3)), current.var((0, 2, 3), unbiased=False)
    current = (current - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    current = current * layer.weight[:, None, None] + layer.bias[:, None, None]
    current = current if r is None else current + r
    expected = gee_kernels.lif(current.unflatten(0, (2, 3)), backend="reference").flatten(0, 1)
    assert out.values.shape == size
    assert (out.values != expected).float().mean() < 1e-3  # rounding at the threshold
    assert torch.equal(out.bits, gee_kernels.pack_spikes(out.values))
    assert out.encoding is layer.encoding
    assert out.binary
    assert torch.equal(layer.counts, out.values.sum((2, 3)).int())
    assert layer.firing_rate().item() == pytest.approx(out.values.mean().item())
    assert not layer.counts.requires_grad
    torch.testing.assert_close(layer.running_mean.double(), 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_constant_input_is_convolved_once_and_repeated():
    torch.manual_seed(0)
    layer = SpikingConv2d(3, 8, genes=2, dense=True, **OPTIONS)
    torch.nn.init.normal_(layer.encoding)
    image = torch.randn(2, 3, 6, 6)
    shapes = []
    layer.conv.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    once = layer(Activity(image, 3, constant=True))
    every = layer(Activity(torch.cat([image] * 3), 3))
    assert [shape[0] for shape in shapes] == [2, 6]
    assert torch.equal(once.values, every.values)
    assert once.values.is_contiguous(memory_format=torch.channels_last)


def test_spiking_linear_is_linear_and_neurons():
    torch.manual_seed(0)
    layer = SpikingLinear(40, 30, neuron=Neuron(tau=3.0), backend="fused")
    x = torch.rand(6, 40) * 0.4
    out = layer(Activity(x, 2))
    current = layer.linear(Activity(x, 2)).unflatten(0, (2, 3))
    assert torch.equal(out.values, gee_kernels.lif(current, tau=3.0).flatten(0, 1))
    assert layer.firing_rate().item() == pytest.approx(out.values.mean().item())
    assert 0.05 < out.values.mean() < 0.8


def test_pooling_knows_what_its_values_are():
    x = activity(4, 10, 7, 6)
    average = avg_pool(x, 2)
    assert average.values.shape == (4, 10, 3, 3)
    assert average.bits is None
    assert not average.binary
    assert average.encoding is x.encoding
    largest = max_pool(x, 3, 2, "fused")
    assert largest.values.shape == (4, 10, 4, 3)
    assert set(largest.values.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(largest.bits, gee_kernels.pack_spikes(largest.values))
    flat = average_to(x, 2)
    assert flat.values.shape == (4, 40)
    assert not flat.binary


def test_only_genetic_layers_are_deployed():
    with pytest.raises(TypeError, match="genetic convolution, got DenseConv2d"):
        DeployedConv2d(SpikingConv2d(3, 8, genes=None, **OPTIONS))


def test_a_genetic_convolution_needs_the_senders_code():
    layer = SpikingConv2d(3, 8, genes=2, **OPTIONS)
    with pytest.raises(ValueError, match="encoding of the population that sent it"):
        layer(Activity(spikes(2, 3, 4, 4), 2, binary=True), torch.ones(2, 2))


def test_no_rate_before_the_first_pass():
    with pytest.raises(RuntimeError, match="before the first forward pass"):
        SpikingLinear(2, 2, neuron=Neuron(), backend="fused").firing_rate()
