"""Spiking layers: a population of neurons together with the synapses that lead into it.

What flows between layers is an `Activity`: the spikes, their packed bits, and the neuronal encoding of
the population that sent them. So a convolution finds its input code X_p with its input and its output
code X_q in its own layer, and every encoding is registered exactly once.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gee_kernels
from gee import synchronised
from gee_kernels._library import Backend
from gee_kernels.genetic_conv2d.plan import Plan
from gee_kernels.surrogate import Surrogate


@dataclass(frozen=True)
class Neuron:
    """The leaky integrate-and-fire neuron of a network; see `gee_kernels.lif` for the equations."""

    tau: float = 2.0
    v_threshold: float = 0.5
    v_reset: float | None = 0.0
    decay_input: bool = True
    detach_reset: bool = True
    surrogate: Surrogate = "piecewise_quadratic"
    alpha: float = 2.0


class Activity(NamedTuple):
    """What one layer hands to the next."""

    values: Tensor  # [T*B, C, H, W], time outermost; [B, C, H, W] where constant
    time_steps: int
    bits: Tensor | None = None  # [T*B, H, W, ceil(C/8)] uint8, the spikes packed; None where unknown
    encoding: Tensor | None = None  # [C, g, K, K], X of the sending population; None in a dense twin
    binary: bool = False  # spikes; False: graded values (an image, or spikes behind average pooling)
    constant: bool = False  # the same values at each of the T steps, held once

    def code(self) -> Tensor:
        """The sending population's encoding.

        Raises:
            ValueError: there is none.
        """
        if self.encoding is None:
            raise ValueError("x must come with the encoding of the population that sent it, got None")
        return self.encoding


class DenseConv2d(nn.Conv2d):
    """Convolution with a learned weight: the first one, 1x1 shortcuts, and all those of a dense twin."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=False
        )

    def forward(  # type: ignore[override]
        self, x: Activity, interaction: Tensor | None = None, post: Tensor | None = None
    ) -> Tensor:
        # [N, C_in, H, W] -> [N, C_out, H', W']; the genes are taken, and left alone, for a common signature
        return super().forward(x.values)


class GeneticConv2d(nn.Module):
    """3x3 convolution with weights decoded from genes (GEE, Eqs. 1-3); owns no parameter."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, plan: Plan, backend: Backend):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = (3, 3), (stride, stride), (1, 1)
        self.plan, self.backend = plan, backend

    def forward(self, x: Activity, interaction: Tensor, post: Tensor) -> Tensor:
        # [N, C_in, H, W] -> [N, C_out, H', W']
        return gee_kernels.genetic_conv2d(
            x.values,
            x.code(),
            interaction,
            post,
            self.stride[0],
            self.padding[0],
            self.plan,
            bits=x.bits,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride[0]}, plan={self.plan!r}"


class SpikingLayer(nn.Module):
    """Remembers how often its neurons fired in the last forward pass."""

    counts: Tensor | None = None  # [T*B, C] int32, spikes per image-step and channel, detached
    sites: int = 1  # neurons per channel

    def firing_rate(self) -> Tensor:
        """Spikes per neuron and step in the last forward pass, a float32 scalar on the model's device.

        Raises:
            RuntimeError: the layer has not run yet.
        """
        if self.counts is None:
            raise RuntimeError("there is no firing rate before the first forward pass")
        return self.counts.sum() / (self.counts.numel() * self.sites)


class SpikingConv2d(SpikingLayer):
    """One population: convolution into it, batch norm over T, B, H and W, LIF neurons, and its encoding X_p.

    Args:
        in_channels: channels of the sending population, or of the image.
        out_channels: C_p, the channels of this population.
        genes: g; None in a dense twin.
        dense: the convolution has a weight of its own though the network has genes (the first layer).
    """

    synchronised = False  # batch statistics over the images of all processes, see gee.synchronised
    encoding: nn.Parameter | None  # X_p [C_p, g, 3, 3]
    running_mean: Tensor  # [C_p]
    running_var: Tensor  # [C_p]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        genes: int | None,
        stride: int = 1,
        kernel_size: int = 3,
        dense: bool = False,
        neuron: Neuron,
        plan: Plan,
        backend: Backend,
    ):
        super().__init__()
        self.conv: DenseConv2d | GeneticConv2d
        if dense or genes is None:
            self.conv = DenseConv2d(in_channels, out_channels, kernel_size, stride)
        else:
            self.conv = GeneticConv2d(in_channels, out_channels, stride, plan, backend)
        encoding = None if genes is None else nn.Parameter(torch.empty(out_channels, genes, 3, 3))
        self.register_parameter("encoding", encoding)
        self.weight = nn.Parameter(torch.ones(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("running_mean", torch.zeros(out_channels))
        self.register_buffer("running_var", torch.ones(out_channels))
        self.momentum, self.eps = 0.1, 1e-5
        self.neuron, self.neuron_options, self.backend = neuron, asdict(neuron), backend

    def forward(
        self, x: Activity, interaction: Tensor | None = None, residual: Tensor | None = None
    ) -> Activity:
        # x [T*B, C_in, H, W], interaction [g, g], residual [T*B, C_p, H', W'] -> [T*B, C_p, H', W']
        current = self.conv(x, interaction, self.encoding)
        if x.constant:  # the same current at each step: computed once, and repeated keeping channels last
            current = torch.cat([current] * x.time_steps)
        normalise = synchronised.batch_norm_lif if self.synchronised else gee_kernels.batch_norm_lif
        out = normalise(
            current,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            residual,
            time_steps=x.time_steps,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            **self.neuron_options,
            backend=self.backend,
        )
        self.counts, self.sites = out.counts, out.spikes.shape[2] * out.spikes.shape[3]
        return Activity(out.spikes, x.time_steps, out.bits, self.encoding, binary=True)


class DeployedConv2d(SpikingLayer):
    """Inference form of a genetic `SpikingConv2d`: folded norm, and one kernel from spikes to spikes.

    Batch norm with running statistics is y * scale + shift for every channel. The weights stay genes; the
    convolution's output is not written to memory by the fused kernel.

    Args:
        layer: the trained layer, whose convolution is genetic.
    """

    encoding: nn.Parameter  # X_p [C_p, g, 3, 3]
    scale: Tensor  # [C_p] weight / sqrt(running_var + eps)
    shift: Tensor  # [C_p] bias - running_mean * scale

    def __init__(self, layer: SpikingConv2d):
        super().__init__()
        conv = layer.conv
        if not isinstance(conv, GeneticConv2d) or layer.encoding is None:
            raise TypeError(f"layer must have a genetic convolution, got {type(conv).__name__}")
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.plan, self.backend, self.neuron = conv.plan, conv.backend, layer.neuron
        self.encoding = nn.Parameter(layer.encoding.detach().clone(), requires_grad=False)
        with torch.no_grad():
            scale = layer.weight / (layer.running_var + layer.eps).sqrt()
            self.register_buffer("scale", scale)
            self.register_buffer("shift", layer.bias - layer.running_mean * scale)

    def forward(self, x: Activity, interaction: Tensor, residual: Tensor | None = None) -> Activity:
        # x [T*B, C_in, H, W], interaction [g, g], residual [T*B, C_p, H', W'] -> [T*B, C_p, H', W']
        if self.training:
            raise RuntimeError("a deployed network is for inference: call eval(), or train the original")
        neuron = self.neuron
        out = gee_kernels.genetic_conv2d_lif(
            x.values,
            x.code(),
            interaction,
            self.encoding,
            self.scale,
            self.shift,
            residual,
            stride=self.stride[0],
            padding=self.padding[0],
            plan=self.plan,
            time_steps=x.time_steps,
            tau=neuron.tau,
            v_threshold=neuron.v_threshold,
            v_reset=neuron.v_reset,
            decay_input=neuron.decay_input,
            bits=x.bits,
            backend=self.backend,
        )
        self.counts, self.sites = out.counts, out.spikes.shape[2] * out.spikes.shape[3]
        return Activity(out.spikes, x.time_steps, out.bits, self.encoding, binary=True)


class SpikingLinear(SpikingLayer):
    """Fully connected layer into LIF neurons, without a norm and without genes.

    No norm brings its currents to scale, so its weights must: with the usual initialisation they would stay
    below the threshold for every input. A standard deviation of 1 / (rate * sqrt(F_in)) gives currents of
    about unit variance when the inputs' rates lie around `rate`.
    """

    rate = 0.2  # spikes per neuron and step, about what the populations show at initialisation

    def __init__(self, in_features: int, out_features: int, *, neuron: Neuron, backend: Backend):
        super().__init__()
        self.linear = DenseLinear(in_features, out_features)
        nn.init.normal_(self.linear.weight, std=1 / (self.rate * in_features**0.5))
        nn.init.zeros_(self.linear.bias)
        self.neuron, self.neuron_options, self.backend = neuron, asdict(neuron), backend

    def forward(self, x: Activity) -> Activity:
        # [T*B, F_in] -> [T*B, F_out]
        current = self.linear(x).unflatten(0, (x.time_steps, -1))
        spikes = cast(Tensor, gee_kernels.lif(current, **self.neuron_options, backend=self.backend))
        spikes = spikes.flatten(0, 1)
        self.counts = spikes.detach().to(torch.int32)
        return Activity(spikes, x.time_steps, binary=True)


class DenseLinear(nn.Linear):
    """Fully connected layer on an `Activity` of [N, F]."""

    def forward(self, x: Activity) -> Tensor:  # type: ignore[override]
        return super().forward(x.values)


def avg_pool(x: Activity, size: int) -> Activity:
    """Average pooling, size x size with the same stride: spikes become graded values."""
    return x._replace(values=F.avg_pool2d(x.values, size), bits=None, binary=False)


def max_pool(x: Activity, size: int, stride: int, backend: Backend) -> Activity:
    """Max pooling of spikes, padded to keep the border: the result is spikes again."""
    spikes = F.max_pool2d(x.values, size, stride, padding=(size - 1) // 2)
    return x._replace(values=spikes, bits=gee_kernels.pack_spikes(spikes.detach(), backend=backend))


def average_to(x: Activity, size: int) -> Activity:
    """Average to size x size whatever the input's size, flattened to [T*B, C * size * size]."""
    values = F.adaptive_avg_pool2d(x.values, size).flatten(1)
    return Activity(values, x.time_steps)
