"""What all networks share: genes, time, logits."""

import copy
import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from gee.layers import (
    Activity,
    DenseLinear,
    DeployedConv2d,
    GeneticConv2d,
    Neuron,
    SpikingConv2d,
    SpikingLayer,
    SpikingLinear,
    average_to,
)
from gee.models.initialisation import Genotype, initialise
from gee_kernels._library import Backend, check_backend
from gee_kernels.genetic_conv2d.plan import Plan


class SpikingNetwork(nn.Module):
    """A spiking network of T steps whose 3x3 convolutions are grown from genes.

    Direct encoding: an image is the same input current at each step, so the first convolution runs once.
    The logits are the mean of the steps' logits.

    Args:
        genes: g, the number of genes; None: the dense twin, the same graph with learned weights.
        num_classes: size of the output.
        in_channels: channels of the image or of the events.
        time_steps: T for images; events bring their own.
        width: multiplies all channels, rounded to a multiple of 8.
        backend: `"fused"` or `"reference"`, for all operators.
        plan: how genetic convolutions are computed, see `gee_kernels.genetic_conv2d`.
        neuron: tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha of `gee_kernels.lif`.

    Raises:
        ValueError: a size below 1, or an unknown backend.
        TypeError: an unknown option.
    """

    interaction: nn.Parameter | None  # G [g, g]
    head: nn.Module

    def __init__(
        self,
        *,
        genes: int | None,
        num_classes: int = 10,
        in_channels: int = 3,
        time_steps: int = 4,
        width: float = 1.0,
        backend: Backend = "fused",
        plan: Plan = "auto",
        **neuron: Any,
    ):
        super().__init__()
        check_backend(backend)
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "time_steps": time_steps}
        for name, value in sizes.items() if genes is None else {"genes": genes, **sizes}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        self.genes, self.num_classes, self.in_channels = genes, num_classes, in_channels
        self.time_steps, self.width, self.backend, self.plan = time_steps, width, backend, plan
        known = [field.name for field in dataclasses.fields(Neuron)]
        for option in neuron.keys() - set(known):
            raise TypeError(
                f"unknown option {option!r} for this model; options of the neuron are {', '.join(known)}"
            )
        self.neuron = Neuron(**neuron)
        self.register_parameter(
            "interaction", None if genes is None else nn.Parameter(torch.empty(genes, genes))
        )

    # What a family builds with.

    def channels(self, count: int) -> int:
        """`count` channels at width 1, scaled, a multiple of 8 unless the width is 1."""
        return count if self.width == 1 else max(8, 8 * round(count * self.width / 8))

    def population(self, in_channels: int, out_channels: int, **options: Any) -> SpikingConv2d:
        return SpikingConv2d(
            in_channels,
            out_channels,
            genes=self.genes,
            neuron=self.neuron,
            plan=self.plan,
            backend=self.backend,
            **options,
        )

    def reset_parameters(self) -> None:
        """Learned weights by fan-in, genes from the default genotype; torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if self.genes is not None:
            initialise(self, Genotype.default(self.genes))

    def features(self, x: Activity) -> Activity:
        raise NotImplementedError

    # What a user calls.

    def step_logits(self, images: Tensor) -> Tensor:
        """Logits of each step.

        Args:
            images: `[B, C, H, W]`, or events `[T, B, C, H, W]`.

        Returns:
            `[T, B, num_classes]`.

        Raises:
            ValueError: another number of dimensions or channels.
        """
        if images.dim() not in (4, 5) or images.shape[-3] != self.in_channels:
            raise ValueError(
                f"images must be [B, {self.in_channels}, H, W] or [T, B, {self.in_channels}, H, W], "
                f"got {list(images.shape)}"
            )
        constant = images.dim() == 4
        time_steps = self.time_steps if constant else images.shape[0]
        values = images if constant else images.flatten(0, 1)
        values = values.contiguous(memory_format=torch.channels_last)
        x = self.features(Activity(values, time_steps, constant=constant))
        return self.head(x).unflatten(0, (time_steps, -1))

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` or events `[T, B, C, H, W]` -> logits `[B, num_classes]`, the mean over T."""
        return self.step_logits(images).mean(0)

    def genetic_parameters(self) -> tuple[list[nn.Parameter], nn.Parameter | None]:
        """Every population's encoding X_p `[C_p, g, 3, 3]` in the order of the network, and G `[g, g]`.

        A dense twin has none: `([], None)`.
        """
        encodings = [getattr(layer, "encoding", None) for layer in self.spiking_layers().values()]
        return [encoding for encoding in encodings if encoding is not None], self.interaction

    def spiking_layers(self) -> dict[str, SpikingLayer]:
        """Every layer of spiking neurons by name, in the order of the network."""
        return {name: module for name, module in self.named_modules() if isinstance(module, SpikingLayer)}

    def firing_rates(self) -> dict[str, Tensor]:
        """Spikes per neuron and step in the last forward pass, a scalar tensor for each spiking layer.

        Raises:
            RuntimeError: there was no forward pass yet.
        """
        return {name: layer.firing_rate() for name, layer in self.spiking_layers().items()}

    def deploy(self) -> Self:
        """A copy for inference: norms folded, each genetic layer one kernel from spikes to spikes.

        It gives the same logits to rounding, cannot be trained, and keeps no link to the original. Layers
        with a learned weight stay as they are, as their norm and neurons are one kernel already.
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for name, layer in model.spiking_layers().items():
            if isinstance(layer, SpikingConv2d) and isinstance(layer.conv, GeneticConv2d):
                model.set_submodule(name, DeployedConv2d(layer).eval())
        return model


class Head(nn.Module):
    """Average pooling to size x size, then fully connected layers, spiking neurons between them.

    Args:
        channels: of the last population.
        size: side of what is pooled to.
        hidden: sizes of the spiking layers before the last one.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        size: int = 1,
        hidden: Sequence[int] = (),
        neuron: Neuron,
        backend: Backend,
    ):
        super().__init__()
        self.size = size
        sizes = [channels * size * size, *hidden]
        self.hidden = nn.ModuleList(
            SpikingLinear(*pair, neuron=neuron, backend=backend) for pair in pairwise(sizes)
        )
        self.output = DenseLinear(sizes[-1], num_classes)

    def forward(self, x: Activity) -> Tensor:
        # [T*B, C, H, W] -> [T*B, num_classes]
        x = average_to(x, self.size)
        for layer in self.hidden:
            x = layer(x)
        return self.output(x)
