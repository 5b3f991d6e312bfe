"""ImageNet, or any tree of images in the same layout: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import v2

from gee.data.dataset import Batch, DataError, Dataset, epoch_generator, local_batch_size

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZE = 224


@dataclass
class Folder(Dataset):
    """Images decoded from files by worker processes."""

    train_files: datasets.ImageFolder
    test_files: datasets.ImageFolder
    workers: int

    @property
    def train_size(self) -> int:
        return len(self.train_files)

    @property
    def test_size(self) -> int:
        return len(self.test_files)

    def train_batches(self, batch_size, *, seed, epoch, device="cpu", rank=0, world=1):
        batch_size = min(batch_size, self.train_size)
        local = local_batch_size(batch_size, world)
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(self.train_size, generator=generator)
        joint = order[: self.train_size // batch_size * batch_size].view(-1, batch_size)
        mine = joint[:, rank * local : (rank + 1) * local].flatten()
        # Each process augments with draws of its own; the workers' seeds come from the epoch's generator.
        generator = epoch_generator(seed ^ rank << 32, epoch)
        yield from self._batches(self.train_files, mine, local, device, generator)

    def test_batches(self, batch_size, *, device="cpu", rank=0, world=1):
        mine = torch.arange(rank, self.test_size, world)
        yield from self._batches(self.test_files, mine, batch_size, device, torch.Generator())

    def _batches(
        self,
        files: datasets.ImageFolder,
        indices: torch.Tensor,
        batch_size: int,
        device: torch.device | str,
        generator: torch.Generator,
    ) -> Iterator[Batch]:
        on_gpu = torch.device(device).type == "cuda"
        loader = DataLoader(
            Subset(files, indices.tolist()),
            batch_size,
            num_workers=self.workers,
            pin_memory=on_gpu,
            generator=generator,
        )
        for images, labels in loader:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            yield Batch(images, labels.to(device, non_blocking=True))


def load(data_dir: Path, image_size: int | None) -> Folder:
    size = image_size or SIZE
    augment = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    centre = [v2.Resize(size * 256 // 224, antialias=True), v2.CenterCrop(size)]
    train, test = _folder(data_dir / "train", augment), _folder(data_dir / "val", centre)
    if train.classes != test.classes:
        differing = ", ".join(sorted(set(train.classes) ^ set(test.classes))[:5])
        raise DataError(f"{data_dir}: train and val must hold the same classes; only one holds {differing}")
    return Folder(
        name="imagenet",
        shape=(3, size, size),
        classes=tuple(train.classes),
        note="the val folder",
        train_files=train,
        test_files=test,
        workers=max(
            1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ),
    )


def _folder(path: Path, transforms: list[v2.Transform]) -> datasets.ImageFolder:
    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    try:
        return datasets.ImageFolder(str(path), v2.Compose([*transforms, *finish]))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"no ImageNet in {path.parent}: looked for {path}/<class>/*.JPEG ({error}); unpack the images of "
            "ILSVRC 2012 into train and val, one folder per class, and name their folder with --data-dir"
        ) from error
