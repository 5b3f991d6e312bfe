"""What a data set is: shapes, classes, and batches that depend on nothing but (seed, epoch)."""

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

from gee.data.augment import Augment


class DataError(RuntimeError):
    """The files of a data set are missing or damaged."""


class Batch(NamedTuple):
    images: Tensor  # [B, C, H, W], or [T, B, C, H, W] for data sets of events
    labels: Tensor  # [B] int64


@dataclass
class Dataset(abc.ABC):
    """Training and test examples of one data set.

    The order and the augmentation of an epoch are functions of (seed, epoch) alone, so a resumed run sees
    what the undisturbed one would have seen, and several processes (`rank` of `world`) each take their slice
    of the same joint batches.
    """

    name: str
    shape: tuple[int, ...]  # of one input: (C, H, W)
    classes: tuple[str, ...]
    note: str  # where the held-out examples come from: shown beside every accuracy

    @property
    @abc.abstractmethod
    def train_size(self) -> int:
        """Number of training examples."""

    @property
    @abc.abstractmethod
    def test_size(self) -> int:
        """Number of held-out examples."""

    @abc.abstractmethod
    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """The augmented batches of one epoch, `batch_size` examples each over all `world` processes.

        What is left over after the last whole batch is dropped (another part of the data in each epoch).

        Raises:
            ValueError: `world` does not divide `batch_size`.
        """

    @abc.abstractmethod
    def test_batches(
        self, batch_size: int, *, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """The held-out examples once, in fixed order, without augmentation; process `rank` gets its share."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """The number of batches of `train_batches`."""
        return self.train_size // min(batch_size, self.train_size)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A generator for one epoch, unrelated to those of other epochs and seeds.

    The two numbers are mixed by SplitMix64's finaliser (Steele, Lea, Flood 2014).
    """
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return torch.Generator().manual_seed((z ^ (z >> 31)) >> 1)


def local_batch_size(batch_size: int, world: int) -> int:
    if batch_size % world:
        raise ValueError(f"batch_size must be a multiple of the {world} processes, got {batch_size}")
    return batch_size // world


@dataclass
class InMemory(Dataset):
    """A small data set held as uint8 tensors; whole batches are augmented at once, on the device in use."""

    train_images: Tensor  # [N, C, H, W] uint8
    train_labels: Tensor  # [N] int64
    test_images: Tensor  # [M, C, H, W] uint8
    test_labels: Tensor  # [M] int64
    mean: tuple[float, ...]  # of each channel, pixels scaled to 0..1
    std: tuple[float, ...]
    augment: Augment

    @property
    def train_size(self) -> int:
        return len(self.train_labels)

    @property
    def test_size(self) -> int:
        return len(self.test_labels)

    def train_batches(self, batch_size, *, seed, epoch, device="cpu", rank=0, world=1):
        batch_size = min(batch_size, self.train_size)
        local = local_batch_size(batch_size, world)
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(self.train_size, generator=generator)
        draws = self.augment.draw(self.train_size, generator).to(device)  # for the joint batches
        images, labels = self._on(device, "train")
        order = order.to(device)
        for start in range(0, self.train_size - batch_size + 1, batch_size):
            mine = slice(start + rank * local, start + (rank + 1) * local)
            batch = self.augment(images[order[mine]], draws[mine])
            yield Batch(self.normalise(batch), labels[order[mine]])

    def test_batches(self, batch_size, *, device="cpu", rank=0, world=1):
        images, labels = self._on(device, "test")
        mine = torch.arange(rank, self.test_size, world, device=device)
        for part in mine.split(batch_size):
            yield Batch(self.normalise(images[part]), labels[part])

    def normalise(self, images: Tensor) -> Tensor:
        """[B, C, H, W] uint8 -> float32 with mean 0 and deviation 1 per channel, channels-last in memory."""
        scaled = v2.functional.to_dtype(images.contiguous(memory_format=torch.channels_last), scale=True)
        return v2.functional.normalize(scaled, list(self.mean), list(self.std), inplace=True)

    def subset(self, train: int | None = None, test: int | None = None) -> "InMemory":
        """The first `train` training and `test` held-out examples (None: all of them)."""
        parts = dict(vars(self))
        for split, size in (("train", train), ("test", test)):
            for kind in ("images", "labels"):
                parts[f"{split}_{kind}"] = parts[f"{split}_{kind}"][:size]
        return InMemory(**parts)

    def _on(self, device: torch.device | str, split: str) -> tuple[Tensor, Tensor]:
        """Images and labels of a split on `device`, moved there once and kept."""
        names = (f"{split}_images", f"{split}_labels")
        for name in names:
            setattr(self, name, getattr(self, name).to(device))
        return getattr(self, names[0]), getattr(self, names[1])


def resize(images: Tensor, image_size: int | None) -> Tensor:
    """[N, C, H, W] uint8 resized to image_size (antialiased), in pieces that bound the memory."""
    if image_size is None or images.shape[-2:] == (image_size, image_size):
        return images
    size = [image_size, image_size]
    return torch.cat([v2.functional.resize(part, size, antialias=True) for part in images.split(2048)])
