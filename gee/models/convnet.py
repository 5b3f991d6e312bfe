"""Plain chains of populations with average pooling between them: `cifarnet`, `vgg16`, `digitsnet`."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from gee.layers import Activity, avg_pool
from gee.models.network import Head, SpikingNetwork
from gee.models.registry import register

POOL = "pool"  # average pooling, 2 x 2


class ConvNet(SpikingNetwork):
    """A chain of populations, then one fully connected layer.

    Args:
        chain: the channels of each population in order, with `POOL` where height and width are halved.
        head_size: the last population is averaged to head_size x head_size before the classifier.
        options: those of `SpikingNetwork`.
    """

    def __init__(self, chain: Sequence[int | str], *, head_size: int, **options: Any):
        super().__init__(**options)
        self.layers = nn.ModuleList()
        self.pooled: list[bool] = []  # for each layer: is it followed by a pooling?
        channels = self.in_channels
        for step in chain:
            if isinstance(step, str):
                self.pooled[-1] = True
                continue
            self.layers.append(self.population(channels, self.channels(step), dense=not self.layers))
            self.pooled.append(False)
            channels = self.channels(step)
        self.head = Head(channels, self.num_classes, size=head_size, neuron=self.neuron, backend=self.backend)
        self.reset_parameters()

    def features(self, x: Activity) -> Activity:
        for layer, pooled in zip(self.layers, self.pooled, strict=True):
            x = layer(x, self.interaction)
            if pooled:
                x = avg_pool(x, 2)
        return x


@register
def cifarnet(**options: Any) -> ConvNet:
    """CIFARNet: 256x4, 512x2, 1024x2 for 32x32 images, global average, 1024 -> classes."""
    chain: list[int | str] = [256, 256, 256, 256, POOL, 512, 512, POOL, 1024, 1024]
    return ConvNet(chain, head_size=1, **options)


@register
def vgg16(*, tail_channels: int = 512, **options: Any) -> ConvNet:
    """VGG-16 of the spiking literature: eight populations, 32x32 pooled to 2x2, 2048 -> classes.

    Args:
        tail_channels: channels of the last two populations; 1024 in the paper's larger row.
        options: those of `SpikingNetwork`.
    """
    chain: list[int | str] = [
        64,
        128,
        POOL,
        256,
        256,
        POOL,
        512,
        512,
        POOL,
        tail_channels,
        tail_channels,
        POOL,
    ]
    return ConvNet(chain, head_size=2, **options)


@register
def digitsnet(**options: Any) -> ConvNet:
    """A small network for 8x8 digits: 32x2, 64x2, averaged to 2x2, 256 -> classes."""
    return ConvNet([32, 32, POOL, 64, 64], head_size=2, **options)
