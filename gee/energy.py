"""Energy of a network's arithmetic, exact to the synapse.

    E = 4.6 pJ * MACs + 0.9 pJ * ACs                    (45 nm, float32; Horowitz 2014)       GEE, Eq. 17

An AC is one weight added because one binary spike arrived: each spike counts its exact fan-out, which is
smaller at borders and under strides. A MAC is a multiplication, once for each synapse of a layer whose
input is graded (an image, or spikes behind average pooling), whatever the values; synapses that lead into
the padding do not exist and are not counted. With direct encoding the first convolution sees the same
image at each of the T steps and is computed once; all other layers run T times.

Not counted: batch norm (folded into the weights at inference), the neurons' own update, biases, the
addition of identity shortcuts, pooling. Decoding W from the genes is counted apart, `decode_macs`, since
it is paid once for each time the weights are loaded, not for each image.

The dense figures are those of a conventional network on the same graph: every synapse multiplies once
for each image, and there is no time.

SpikingJelly's counters agree on the ACs of spike-driven layers (`SynOpCounter`). They differ by
convention elsewhere: `MACCounter` also counts multiplications with the padding, counts the first
convolution as often as it is called, and calls a layer spike-driven where its input happens to be all
zeros and ones, where this module goes by the graph.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

import gee_kernels
from gee.layers import Activity, DenseConv2d, DenseLinear, DeployedConv2d, GeneticConv2d, SpikingLayer
from gee.models import SpikingNetwork
from gee_kernels._library import Backend

MAC_PJ = 4.6  # float32 multiply and add, 45 nm
AC_PJ = 0.9  # float32 add, 45 nm


def energy_mj(macs: float, acs: float) -> float:
    """Energy in mJ of so many multiplications and accumulations.   (GEE, Eq. 17)"""
    return (MAC_PJ * macs + AC_PJ * acs) * 1e-9


class Operations:
    """Operations per image: each sample's own, and their means."""

    sample_macs: Tensor  # [B] int64, multiplications
    sample_acs: Tensor  # [B] int64, accumulations
    sample_spikes: Tensor  # [B] int64, spikes sent, over all steps
    decode_macs: int  # multiplications to decode the weights from genes, once for each time they are loaded
    dense_macs: int  # multiplications of a conventional network on the same graph

    @property
    def macs(self) -> float:
        """MACs per image."""
        return self.sample_macs.double().mean().item()

    @property
    def acs(self) -> float:
        """ACs per image."""
        return self.sample_acs.double().mean().item()

    @property
    def spikes(self) -> float:
        """Spikes per image, over all steps."""
        return self.sample_spikes.double().mean().item()

    @property
    def energy_mj(self) -> float:
        """Energy per image in mJ, without decoding."""
        return energy_mj(self.macs, self.acs)

    @property
    def sample_energy_mj(self) -> Tensor:
        """Energy of each image in mJ, `[B]` float64, without decoding."""
        return (MAC_PJ * self.sample_macs.double() + AC_PJ * self.sample_acs.double()) * 1e-9

    @property
    def dense_energy_mj(self) -> float:
        """Energy per image in mJ of a conventional network on the same graph."""
        return energy_mj(self.dense_macs, 0)


@dataclass(frozen=True, eq=False)
class LayerEnergy(Operations):
    """One layer of synapses, and the spikes of the neurons behind it (a shortcut has none)."""

    name: str
    graded: bool  # the input is graded: MACs; else binary spikes: ACs
    sample_macs: Tensor
    sample_acs: Tensor
    sample_spikes: Tensor
    decode_macs: int
    dense_macs: int


class EnergyReport(Operations):
    """The operations of a whole network, and of each of its `layers`."""

    def __init__(self, layers: Sequence[LayerEnergy]):
        self.layers = tuple(layers)
        self.sample_macs = torch.stack([layer.sample_macs for layer in layers]).sum(0)
        self.sample_acs = torch.stack([layer.sample_acs for layer in layers]).sum(0)
        self.sample_spikes = torch.stack([layer.sample_spikes for layer in layers]).sum(0)
        self.decode_macs = sum(layer.decode_macs for layer in layers)
        self.dense_macs = sum(layer.dense_macs for layer in layers)

    def __str__(self) -> str:
        """A table with a line for each layer, figures per image."""
        lines = [
            f"{'layer':<24}{'input':>8}{'MACs':>16}{'ACs':>16}{'spikes':>12}{'energy/mJ':>12}{'dense/mJ':>12}"
        ]
        for name, kind, part in [
            *((layer.name, "graded" if layer.graded else "spikes", layer) for layer in self.layers),
            ("total", "", self),
        ]:
            lines.append(
                f"{name:<24}{kind:>8}{part.macs:>16,.0f}{part.acs:>16,.0f}{part.spikes:>12,.0f}"
                f"{part.energy_mj:>12.6f}{part.dense_energy_mj:>12.6f}"
            )
        return "\n".join(lines)


class _Layer(NamedTuple):
    name: str
    synapses: nn.Module  # the convolution or fully connected layer
    neurons: SpikingLayer | None  # those it leads to; None behind a shortcut or the output


class _Observation(NamedTuple):
    """What is kept of a layer's run; the tensor stays on the device until all layers have run."""

    graded: bool
    synapses: int  # for one image at one step
    steps: int  # at which the layer is computed
    acs: Tensor  # [B] int64


def profile(model: nn.Module, images: Tensor) -> EnergyReport:
    """Run the model on images and count every synaptic operation.

    The model runs in evaluation mode and is left in the mode it was in. Counts come from the kernels'
    packed spikes and are brought to the host once, after all layers.

    Args:
        model: a `SpikingNetwork`, genetic or dense, compiled or not.
        images: `[B, C, H, W]` or events `[T, B, C, H, W]`, at least one sample.

    Returns:
        the report; `.macs`, `.acs`, `.spikes`, `.energy_mj` are per sample, `.layers` has each layer.

    Raises:
        ValueError: no samples, or images of a shape that the model does not take.
    """
    network = cast(SpikingNetwork, getattr(model, "_orig_mod", model))
    batch = images.shape[-4] if images.dim() >= 4 else 0
    if batch < 1:
        raise ValueError(f"images must hold at least one sample [B, C, H, W], got {list(images.shape)}")
    layers = {layer.synapses: layer for layer in _layers(network)}
    seen: dict[nn.Module, _Observation] = {}  # in the order in which the layers run

    def observe(synapses: nn.Module, args: tuple[Activity, ...], output: Tensor | Activity) -> None:
        out = output.values if isinstance(output, Activity) else output
        seen[synapses] = _observe(synapses, args[0], out, batch, network.backend)

    hooks = [synapses.register_forward_hook(observe) for synapses in layers]
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with torch.no_grad():
            network(images)
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()

    spikes = [_spikes(layers[synapses].neurons, seen[synapses].acs) for synapses in seen]
    counts = torch.stack([torch.stack([one.acs for one in seen.values()]), torch.stack(spikes)]).cpu()
    return EnergyReport(
        [
            LayerEnergy(
                name=layers[synapses].name,
                graded=one.graded,
                sample_macs=torch.full((batch,), one.synapses * one.steps if one.graded else 0),
                sample_acs=acs,
                sample_spikes=sent,
                decode_macs=_decode_macs(synapses, network.genes),
                dense_macs=one.synapses,
            )
            for (synapses, one), acs, sent in zip(seen.items(), *counts.unbind(0), strict=True)
        ]
    )


def _layers(network: SpikingNetwork) -> Iterator[_Layer]:
    for name, module in network.named_modules():
        if isinstance(module, DeployedConv2d):
            yield _Layer(name, module, module)
        elif isinstance(module, DenseConv2d | GeneticConv2d | DenseLinear):
            outer = name.rpartition(".")[0]
            parent = network.get_submodule(outer)
            yield (
                _Layer(outer, module, parent)
                if isinstance(parent, SpikingLayer)
                else _Layer(name, module, None)
            )


def _observe(synapses: nn.Module, x: Activity, out: Tensor, batch: int, backend: Backend) -> _Observation:
    device = x.values.device
    fan_out = _fan_out(synapses, x.values.shape, out.shape, device)
    number = x.values.shape[1] * int(_fan_out(synapses, x.values.shape, out.shape, "cpu").sum())
    if not x.binary:
        nothing = torch.zeros(batch, dtype=torch.int64, device=device)
        return _Observation(True, number, 1 if x.constant else x.time_steps, nothing)
    bits = x.bits if x.bits is not None else gee_kernels.pack_spikes(x.values, backend=backend)
    acs = gee_kernels.count_synapses(bits, fan_out, backend=backend)[:, 1]  # [T*B]
    return _Observation(False, number, x.time_steps, acs.view(-1, batch).sum(0))


def _spikes(neurons: SpikingLayer | None, like: Tensor) -> Tensor:
    """Spikes that the neurons sent for each image, `[B]` int64."""
    if neurons is None or neurons.counts is None:
        return torch.zeros_like(like)
    return neurons.counts.view(-1, len(like), neurons.counts.shape[1]).sum((0, 2), dtype=torch.int64)


def _reach(size: int, out: int, kernel: int, stride: int, padding: int, device: torch.device | str) -> Tensor:
    """How many outputs each of `size` inputs reaches along one axis, `[size]` int64."""
    first = torch.arange(size, device=device)[:, None] + padding - torch.arange(kernel, device=device)
    return ((first % stride == 0) & (first >= 0) & (first < out * stride)).sum(1)


def _fan_out(synapses, shape: torch.Size, out: torch.Size, device: torch.device | str) -> Tensor:
    """Weights that one spike meets, by its position: `[H, W]` int64, `[]` where fully connected."""
    if isinstance(synapses, nn.Linear):
        return torch.full((), synapses.out_features, device=device)
    rows, columns = (
        _reach(*axis, device=device)
        for axis in zip(
            shape[2:], out[2:], synapses.kernel_size, synapses.stride, synapses.padding, strict=True
        )
    )
    return torch.outer(rows, columns) * synapses.out_channels


def _decode_macs(module: nn.Module, genes: int | None) -> int:
    """W = X_p^T (G X_q) at each tap, G taken to the side with fewer channels."""
    if not isinstance(module, GeneticConv2d | DeployedConv2d) or genes is None:
        return 0
    few = min(module.in_channels, module.out_channels)
    taps = module.kernel_size[0] * module.kernel_size[1]
    return taps * (genes * genes * few + genes * module.in_channels * module.out_channels)
