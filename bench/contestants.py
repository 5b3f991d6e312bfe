"""The whole-network contestants: one graph, one set of firing rates, several ways to compute it."""

import torch
from torch import Tensor, nn

from bench.peers import on_library
from gee.layers import SpikingConv2d
from gee.models import create_model
from gee.models.network import SpikingNetwork

CLASSES, GENES, TIME_STEPS = 10, 100, 4

# name -> what it is; the first is ours, the second what ratios are taken against
CONTESTANTS = {
    "gee": "genetic weights, fused kernels",
    "spikingjelly": "dense weights, SpikingJelly's torch backend",
    "spikingjelly + einsum": "genetic weights decoded by einsum, SpikingJelly's torch backend",
    "snntorch": "dense weights, snnTorch",
    "norse": "dense weights, Norse",
    "reference, compiled": "genetic weights, torch.compile of our plain PyTorch reference",
    "dense twin": "dense weights, our fused neurons",
}


def build(contestant: str, network: str, rate: float, images: Tensor, **options) -> nn.Module:
    """A contestant of `CONTESTANTS` on the graph of `network`, firing at `rate` on `images` [B, C, H, W].

    Every contestant with the same kind of weights has the same weights. Returned in training mode.
    """
    genetic = contestant in ("gee", "spikingjelly + einsum", "reference, compiled")
    torch.manual_seed(0)
    options = {"time_steps": TIME_STEPS, **options, "in_channels": images.shape[1], "num_classes": CLASSES}
    base = create_model(network, genes=GENES if genetic else None, **options)
    set_firing_rate(base, images, rate)
    if contestant in ("gee", "dense twin"):
        return base
    if contestant == "reference, compiled":
        reference = create_model(network, genes=GENES, backend="reference", **options)
        reference.load_state_dict(base.state_dict())
        return torch.compile(reference, dynamic=False)
    return on_library(base, contestant.split(" ")[0])


def set_firing_rate(network: SpikingNetwork, images: Tensor, rate: float) -> float:
    """Choose one bias for all batch norms so that neurons fire at `rate` on average; returns what came out.

    Batch norm gives every population currents of unit variance, so a common bias sets a realistic profile in
    which the layers still differ. The running statistics are left at those of `images`.
    """
    layers = [module for module in network.modules() if isinstance(module, SpikingConv2d)]
    low, high = -6.0, 3.0
    network.train()
    with torch.no_grad():
        for _ in range(12):
            middle = (low + high) / 2
            for layer in layers:
                layer.bias.fill_(middle)
                layer.momentum = 1.0
            network(images)
            found = mean_rate(network)
            low, high = (middle, high) if found < rate else (low, middle)
    for layer in layers:
        layer.momentum = 0.1
    return found


def mean_rate(network: SpikingNetwork) -> float:
    """Spikes per neuron and step over all populations, in the last forward pass."""
    layers = [module for module in network.modules() if isinstance(module, SpikingConv2d)]
    spikes = sum(layer.counts.sum().item() for layer in layers)
    return spikes / sum(layer.counts.numel() * layer.sites for layer in layers)


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Forward, cross-entropy, backward; the gradients stay until the next call."""
    model.zero_grad(set_to_none=True)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach()


def images_and_labels(batch: int = 8, channels: int = 3, size: int = 32) -> tuple[Tensor, Tensor]:
    """Smooth random images `[B, C, size, size]` with unit variance, and labels `[B]`; seeded."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(batch, channels, size // 4, size // 4, generator=generator)
    images = nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return images / images.std(), torch.randint(CLASSES, (batch,), generator=generator)
