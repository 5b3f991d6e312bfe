"""Random crops and flips of whole batches, each image with its own draw.

torchvision's `v2.RandomCrop(size, padding)` and `v2.RandomHorizontalFlip` draw once per call: a batch would
share one crop, and a call per image is slow. With the draws of all images at hand, the same two transforms
are one indexing operation on the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class Augment:
    """`v2.RandomCrop(size, padding=padding)` and, where `flip`, `v2.RandomHorizontalFlip()`, by image."""

    padding: int = 0  # pixels of zeros on every side
    flip: bool = False

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """The draws of `count` images, `[count, 3]` int64: top and left of the crop, flip or not."""
        crops = torch.randint(2 * self.padding + 1, (count, 2), generator=generator)
        flips = torch.randint(2 if self.flip else 1, (count, 1), generator=generator)
        return torch.cat([crops, flips], 1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """images `[B, C, H, W]`, draws `[B, 3]` -> `[B, C, H, W]`, channels-last in memory."""
        if not (self.padding or self.flip):
            return images
        height, width = images.shape[-2:]
        padded = v2.functional.pad(images, [self.padding])
        top, left, flip = draws.unbind(1)
        rows = torch.arange(height, device=images.device) + top[:, None]  # [B, H]
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        columns = torch.where(flip[:, None] == 1, width - 1 - columns, columns) + left[:, None]  # [B, W]
        image = torch.arange(len(images), device=images.device)
        cropped = padded.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
        return cropped.permute(0, 3, 1, 2)
