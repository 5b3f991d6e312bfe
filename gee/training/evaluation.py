"""Accuracy, loss, confusion and firing rates on held-out examples."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gee.data.dataset import Batch
from gee.models import SpikingNetwork
from gee.training import distributed


@dataclass(frozen=True)
class Evaluation:
    """What a network does on held-out examples."""

    loss: float  # mean cross-entropy, without label smoothing
    confusion: Tensor  # [classes, classes] int64 on the CPU; row: true class, column: predicted
    firing_rates: dict[str, float]  # spikes per neuron and step, by layer

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy: what a binomial draw of `count` examples leaves open."""
        z, n, p = 1.96, self.count, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return centre - half, centre + half


@torch.no_grad()
def evaluate(
    model: SpikingNetwork,
    batches: Iterable[Batch],
    *,
    amp: str = "none",
    noise: float = 0.0,
    seed: int = 0,
) -> Evaluation:
    """Run `model` in evaluation mode over `batches`, on its own device; torchrun's processes sum up.

    Args:
        model: left in the mode in which it was.
        batches: (images, labels), for instance `data.test_batches(256)`.
        amp: `"none"`, `"bfloat16"` or `"float16"`, the autocast type.
        noise: norm of the Gaussian noise that is added to each input, as a fraction of that input's norm.
        seed: of the noise.

    Raises:
        ValueError: `batches` is empty on all processes.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed + distributed.rank())
    was_training = model.training
    model.eval()
    names = list(model.spiking_layers())
    confusion = torch.zeros(model.num_classes, model.num_classes, dtype=torch.int64, device=device)
    sums = torch.zeros(1 + len(names), dtype=torch.float64, device=device)  # loss, then rates; times images
    try:
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            if noise:
                images = add_noise(images, noise, generator)
            with autocast(device, amp):
                logits = at_least_float32(model(images))
            rates = torch.stack(list(model.firing_rates().values())) if names else sums[:0]
            loss = F.cross_entropy(logits, labels)
            sums += torch.cat([loss[None], rates]).double() * len(labels)
            pairs = labels * model.num_classes + logits.argmax(1)
            confusion += pairs.bincount(minlength=confusion.numel()).view_as(confusion)
    finally:
        model.train(was_training)
    distributed.sum_over_processes(confusion)
    distributed.sum_over_processes(sums)
    count = int(confusion.sum())
    if not count:
        raise ValueError("batches must hold at least one example, got none")
    loss_mean, *rate_means = (sums / count).tolist()
    return Evaluation(loss_mean, confusion.cpu(), dict(zip(names, rate_means, strict=True)))


def add_noise(images: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise whose norm is exactly `fraction` of the norm of each input.

    images `[B, C, H, W]`, or events `[T, B, C, H, W]`, whose noise differs from step to step.
    """
    dims = [dim for dim in range(images.dim()) if dim != images.dim() - 4]  # all but B
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    scale = fraction * _norm(images, dims) / _norm(noise, dims).clamp_min(torch.finfo(images.dtype).tiny)
    return images + scale * noise


def _norm(x: Tensor, dims: list[int]) -> Tensor:
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True)


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Autocast to the type named `amp`; `"none"`: none.

    Raises:
        ValueError: another name.
    """
    if amp not in ("none", "bfloat16", "float16"):
        raise ValueError(f"amp must be none, bfloat16 or float16, got {amp!r}")
    dtype = None if amp == "none" else getattr(torch, amp)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
