"""Energy: known answers, a count by plain loops, SpikingJelly's counter."""

import pytest
import torch
from spikingjelly.activation_based import op_counter

from gee import energy
from gee.layers import Activity, DenseConv2d, DenseLinear, GeneticConv2d
from gee.models import create_model


@pytest.mark.parametrize(
    ("macs", "acs", "expected"),
    [
        (0.347329512e9, 6.51754094076244e9, 7.463502601886196),
        (0.005312266e9, 0.2458512465306023e9, 0.24570254547754208),
    ],
)
def test_known_answers(macs, acs, expected):
    assert energy.energy_mj(macs, acs) == pytest.approx(expected, rel=1e-14)


def by_loops(module: torch.nn.Module, x: torch.Tensor, output: torch.Tensor) -> tuple[int, int]:
    """Synapses of one layer for one sample, and those whose input is not zero: a loop for each index."""
    synapses = added = 0
    if isinstance(module, torch.nn.Linear):
        for value in x.tolist():
            synapses += module.out_features
            added += module.out_features * (value != 0)
        return synapses, added
    channels, height, width = x.shape
    values = x.tolist()
    for row in range(output.shape[1]):
        for column in range(output.shape[2]):
            for i in range(module.kernel_size[0]):
                for j in range(module.kernel_size[1]):
                    h = row * module.stride[0] + i - module.padding[0]
                    w = column * module.stride[1] + j - module.padding[1]
                    if 0 <= h < height and 0 <= w < width:
                        for c in range(channels):
                            synapses += module.out_channels
                            added += module.out_channels * (values[c][h][w] != 0)
    return synapses, added


def record(model: torch.nn.Module, images: torch.Tensor) -> dict[str, tuple]:
    """Input and output of every layer of synapses in a forward pass."""
    seen: dict[str, tuple] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, args, output, name=name: seen.__setitem__(name, (module, args[0], output))
        )
        for name, module in model.named_modules()
        if isinstance(module, DenseConv2d | GeneticConv2d | DenseLinear)
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return seen


CASES = [
    ("digitsnet", {"genes": 3, "in_channels": 1}, (2, 1, 8, 7)),
    ("digitsnet", {"genes": 3, "in_channels": 2}, (3, 2, 2, 7, 8)),  # events, T = 3
    ("vgg16", {"genes": None, "width": 0.02}, (2, 3, 19, 16)),
    ("resnet18", {"genes": 2, "width": 0.06}, (2, 3, 7, 9)),
    ("resnet34", {"genes": 2, "width": 0.06}, (2, 3, 33, 30)),
]


@pytest.mark.parametrize(("name", "options", "shape"), CASES)
def test_every_synapse_is_counted(name, options, shape):
    torch.manual_seed(0)
    model = create_model(name, time_steps=2, **options)
    images = torch.randn(shape)
    batch = shape[-4]
    report = energy.profile(model, images)
    layers = {layer.name: layer for layer in report.layers}
    for name, (module, x, output) in record(model, images).items():
        assert isinstance(x, Activity)
        layer = layers.pop(name if name in layers else name.rpartition(".")[0])
        binary = bool(((x.values == 0) | (x.values == 1)).all())
        assert x.binary == binary or not x.values.any(), "the graph tells what the values are"
        counts = torch.tensor([by_loops(module, x.values[n], output[n]) for n in range(len(output))])
        synapses, added = counts.view(-1, batch, 2).sum(0).unbind(1)
        assert layer.dense_macs == counts[0, 0]
        assert torch.equal(layer.sample_macs, torch.zeros_like(synapses) if x.binary else synapses)
        assert torch.equal(layer.sample_acs, added if x.binary else torch.zeros_like(added))
    assert not layers
    spikes = sum(
        layer.counts.view(-1, batch, layer.counts.shape[1]).sum((0, 2))
        for layer in model.spiking_layers().values()
    )
    assert torch.equal(report.sample_spikes, spikes)
    assert report.spikes > 0
    assert report.acs > 0


def test_report_adds_up():
    torch.manual_seed(0)
    model = create_model("digitsnet", genes=5, in_channels=1)
    images = torch.randn(3, 1, 8, 8)
    report = energy.profile(model, images)
    assert report.macs == sum(layer.macs for layer in report.layers)
    assert report.acs == pytest.approx(sum(layer.acs for layer in report.layers))
    assert report.energy_mj == pytest.approx(report.sample_energy_mj.mean().item())
    assert report.energy_mj == pytest.approx(sum(layer.energy_mj for layer in report.layers))
    assert report.energy_mj == pytest.approx((4.6 * report.macs + 0.9 * report.acs) * 1e-9)
    alone = [energy.profile(model, images[n : n + 1]).sample_energy_mj for n in range(3)]
    assert torch.equal(torch.cat(alone), report.sample_energy_mj)
    # 32 -> 32 -> 64 -> 64 channels: X_p^T (G X_q) at 9 taps, G on the smaller side
    expected = sum(9 * (25 * min(a, b) + 5 * a * b) for a, b in [(32, 32), (32, 64), (64, 64)])
    assert report.decode_macs == expected
    assert energy.profile(create_model("digitsnet", genes=None, in_channels=1), images).decode_macs == 0
    assert str(report).splitlines()[-1].startswith("total")
    assert len(str(report).splitlines()) == len(report.layers) + 2


def test_deployed_network_costs_the_same():
    torch.manual_seed(0)
    model = create_model("resnet18", genes=3, width=0.1, time_steps=2).double()
    images = torch.randn(3, 3, 8, 8).double()  # no rounding moves a membrane across the threshold
    with torch.no_grad():
        for layer in model.spiking_layers().values():
            layer.momentum = 1.0  # running statistics of these images, so that evaluation spikes
        model(images)
    report, deployed = energy.profile(model, images), energy.profile(model.deploy(), images)
    assert [layer.name for layer in deployed.layers] == [layer.name for layer in report.layers]
    assert report.spikes > 1000
    assert torch.equal(deployed.sample_spikes, report.sample_spikes)
    assert torch.equal(deployed.sample_acs, report.sample_acs)
    assert torch.equal(deployed.sample_macs, report.sample_macs)
    assert deployed.decode_macs == report.decode_macs


def test_model_is_left_as_it_was():
    model = create_model("digitsnet", genes=2, in_channels=1).train()
    model.layers[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = energy.profile(model, torch.ones(2, 1, 8, 8))
    second = energy.profile(model, torch.ones(2, 1, 8, 8))
    assert model.training
    assert not model.layers[1].training
    assert torch.equal(first.sample_acs, second.sample_acs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_agrees_with_spikingjelly():
    """On the dense twin; the reference backend runs the operations that SpikingJelly's counters know."""
    torch.manual_seed(0)
    model = create_model("resnet18", genes=None, width=0.1, backend="reference").eval()
    images = torch.randn(1, 3, 9, 8)
    report = energy.profile(model, images)
    acs, macs = op_counter.SynOpCounter(), op_counter.MACCounter()
    with torch.no_grad(), op_counter.DispatchCounterMode([acs, macs]):
        model(images)
    assert report.acs == acs.get_total()
    assert report.acs > 0
    # MACCounter also counts the multiplications with the padding, and the arithmetic of batch norms.
    counted = macs.records["Global"]
    stem = report.layers[0]
    with_padding = 3 * 9 * 16 * 9 * 8
    assert stem.macs == 3 * 16 * (3 * 9 - 2) * (3 * 8 - 2) < with_padding
    assert counted[torch.ops.aten.convolution.default] == with_padding
    assert counted[torch.ops.aten.addmm.default] == report.macs - stem.macs > 0


def test_bad_images():
    model = create_model("digitsnet", genes=2, in_channels=1)
    with pytest.raises(ValueError, match="at least one sample"):
        energy.profile(model, torch.zeros(0, 1, 8, 8))
    with pytest.raises(ValueError, match="images must be"):
        energy.profile(model, torch.zeros(2, 3, 8, 8))
