"""Our networks' graphs on other libraries' neurons: what a user of theirs would write.

A peer keeps the graph of one of our networks; each population becomes torch's convolution, torch's batch norm
and the library's own neuron, with the same weights, so that logits can be compared before anything is timed.
"""

import copy
from collections.abc import Callable

import norse.torch as norse
import snntorch
import torch
from norse.torch.functional.lif_box import LIFBoxParameters
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from gee.layers import Activity, DenseConv2d, SpikingConv2d, SpikingLinear
from gee.models.network import SpikingNetwork
from gee_kernels.decode_weight.reference import decode_weight


class SpikingJellyNeuron(nn.Module):
    """LIFNode, all steps in one call, torch backend."""

    def __init__(self, tau: float, v_threshold: float):
        super().__init__()
        self.node = neuron.LIFNode(
            tau=tau,
            v_threshold=v_threshold,
            v_reset=0.0,
            detach_reset=True,
            surrogate_function=surrogate.PiecewiseQuadratic(alpha=2.0),
            step_mode="m",
        )

    def forward(self, x: Tensor) -> Tensor:
        # [T, ...] -> [T, ...]
        functional.reset_net(self.node)
        return self.node(x)


class SnnTorchNeuron(nn.Module):
    """Leaky, a step at a time; its beta is 1 - 1/tau and its input is not divided by tau."""

    def __init__(self, tau: float, v_threshold: float):
        super().__init__()
        self.tau = tau
        self.node = snntorch.Leaky(
            beta=1 - 1 / tau, threshold=v_threshold, reset_mechanism="zero", reset_delay=False
        )

    def forward(self, x: Tensor) -> Tensor:
        # [T, ...] -> [T, ...]
        voltage, spikes = self.node.init_leaky(), []
        for current in x:
            spike, voltage = self.node(current / self.tau, voltage)
            spikes.append(spike)
        return torch.stack(spikes).to(x.dtype)


class NorseNeuron(nn.Module):
    """LIFBoxCell, a step at a time; dt * tau_mem_inv is 1/tau."""

    def __init__(self, tau: float, v_threshold: float):
        super().__init__()
        parameters = LIFBoxParameters(tau_mem_inv=torch.tensor(1000 / tau), v_th=torch.tensor(v_threshold))
        self.node = norse.LIFBoxCell(p=parameters, dt=0.001)

    def forward(self, x: Tensor) -> Tensor:
        # [T, ...] -> [T, ...]
        state, spikes = None, []
        for current in x:
            spike, state = self.node(current, state)
            spikes.append(spike)
        return torch.stack(spikes).to(x.dtype)


NEURONS: dict[str, Callable[[float, float], nn.Module]] = {
    "spikingjelly": SpikingJellyNeuron,
    "snntorch": SnnTorchNeuron,
    "norse": NorseNeuron,
}


class _Population(nn.Module):
    """Convolution, batch norm, residual, neurons: each a pass of its own."""

    def __init__(self, layer: SpikingConv2d, make_neuron: Callable[[float, float], nn.Module]):
        super().__init__()
        self.conv, self.encoding = layer.conv, layer.encoding
        self.norm = nn.BatchNorm2d(layer.weight.numel(), eps=layer.eps, momentum=layer.momentum)
        self.norm.load_state_dict(
            {
                "weight": layer.weight.detach(),
                "bias": layer.bias.detach(),
                "running_mean": layer.running_mean,
                "running_var": layer.running_var,
                "num_batches_tracked": torch.tensor(0),
            }
        )
        self.neuron = make_neuron(layer.neuron.tau, layer.neuron.v_threshold)

    def forward(
        self, x: Activity, interaction: Tensor | None = None, residual: Tensor | None = None
    ) -> Activity:
        if isinstance(self.conv, DenseConv2d):
            current = self.conv(x)
        else:
            weight = decode_weight(x.encoding, interaction, self.encoding)
            current = nn.functional.conv2d(x.values, weight, None, self.conv.stride, self.conv.padding)
        if x.constant:
            current = torch.cat([current] * x.time_steps)
        current = self.norm(current)
        if residual is not None:
            current = current + residual
        spikes = self.neuron(current.unflatten(0, (x.time_steps, -1))).flatten(0, 1)
        return Activity(spikes, x.time_steps, None, self.encoding, binary=True)


class _Hidden(nn.Module):
    def __init__(self, layer: SpikingLinear, make_neuron: Callable[[float, float], nn.Module]):
        super().__init__()
        self.linear = layer.linear
        self.neuron = make_neuron(layer.neuron.tau, layer.neuron.v_threshold)

    def forward(self, x: Activity) -> Activity:
        current = self.linear(x).unflatten(0, (x.time_steps, -1))
        return Activity(self.neuron(current).flatten(0, 1), x.time_steps, binary=True)


def on_library(network: SpikingNetwork, library: str) -> nn.Module:
    """`network` with the neurons of `library` ("spikingjelly", "snntorch", "norse"); a copy with its weights.

    Genetic convolutions become an einsum that decodes W, followed by torch's convolution.
    """
    peer = copy.deepcopy(network)
    for name, module in list(peer.named_modules()):
        for kind, replacement in ((SpikingConv2d, _Population), (SpikingLinear, _Hidden)):
            if isinstance(module, kind):
                parent, _, leaf = name.rpartition(".")
                setattr(peer.get_submodule(parent), leaf, replacement(module, NEURONS[library]))
    return peer
