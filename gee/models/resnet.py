"""Residual networks: `resnet18`, `resnet19` (32x32 images), `resnet34` (ImageNet)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gee.layers import Activity, DenseConv2d, max_pool
from gee.models.network import Head, SpikingNetwork
from gee.models.registry import register


class BasicBlock(nn.Module):
    """conv-norm-LIF-conv-norm, add the shortcut, LIF: two populations, and both hand on binary spikes.

    The shortcut is the input itself, or a 1x1 convolution without a norm where the shape changes.
    """

    def __init__(self, network: SpikingNetwork, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.layer1 = network.population(in_channels, channels, stride=stride)
        self.layer2 = network.population(channels, channels)
        changes = stride != 1 or in_channels != channels
        self.shortcut = DenseConv2d(in_channels, channels, 1, stride) if changes else None

    def forward(self, x: Activity, interaction: Tensor | None) -> Activity:
        residual = x.values if self.shortcut is None else self.shortcut(x)
        return self.layer2(self.layer1(x, interaction), interaction, residual)


class ResNet(SpikingNetwork):
    """A stem population, stages of residual blocks, global average, fully connected layers.

    Args:
        stem_channels: of the first population.
        stages: (channels, blocks) of each stage; every stage but the first halves height and width.
        hidden: sizes of the spiking fully connected layers before the classifier.
        imagenet_stem: 7x7 convolution with stride 2 and 3x3 max pooling with stride 2, instead of 3x3.
        options: those of `SpikingNetwork`.
    """

    def __init__(
        self,
        stem_channels: int,
        stages: Sequence[tuple[int, int]],
        *,
        hidden: Sequence[int] = (),
        imagenet_stem: bool = False,
        **options: Any,
    ):
        super().__init__(**options)
        channels = self.channels(stem_channels)
        shape = {"kernel_size": 7, "stride": 2} if imagenet_stem else {}
        self.imagenet_stem = imagenet_stem
        self.stem = self.population(self.in_channels, channels, dense=True, **shape)
        self.blocks = nn.ModuleList()
        for stage, (stage_channels, blocks) in enumerate(stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.blocks.append(BasicBlock(self, channels, self.channels(stage_channels), stride))
                channels = self.channels(stage_channels)
        self.head = Head(
            channels,
            self.num_classes,
            hidden=[self.channels(size) for size in hidden],
            neuron=self.neuron,
            backend=self.backend,
        )
        self.reset_parameters()

    def features(self, x: Activity) -> Activity:
        x = self.stem(x)
        if self.imagenet_stem:
            x = max_pool(x, 3, 2, self.backend)
        for block in self.blocks:
            x = block(x, self.interaction)
        return x


@register
def resnet18(**options: Any) -> ResNet:
    """ResNet-18 for 32x32 images: stages of 128, 256, 512 channels with 2, 2, 2 blocks."""
    return ResNet(128, [(128, 2), (256, 2), (512, 2)], hidden=[256], **options)


@register
def resnet19(**options: Any) -> ResNet:
    """ResNet-19 for 32x32 images: stages of 128, 256, 512 channels with 3, 3, 2 blocks."""
    return ResNet(128, [(128, 3), (256, 3), (512, 2)], hidden=[256], **options)


@register
def resnet34(**options: Any) -> ResNet:
    """ResNet-34 for ImageNet: 7x7 stem, stages of 64, 128, 256, 512 channels with 3, 4, 6, 3 blocks."""
    stages = [(64, 3), (128, 4), (256, 6), (512, 3)]
    return ResNet(64, stages, imagenet_stem=True, **options)
