"""CIFAR-10 and CIFAR-100 from the official files, pickled (read by torchvision) or binary.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. Every file is compared
with its published MD5 before it is read. CIFAR-100's binary files have no published MD5 of their own: their
size and their 500 training and 100 test images per class are checked instead.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from gee.data.augment import Augment
from gee.data.dataset import DataError, InMemory, resize

SIZE = 32
PIXELS = 3 * SIZE * SIZE
URL = "https://www.cs.toronto.edu/~kriz"

MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
PER_CLASS_100 = {"train.bin": 500, "test.bin": 100}
CLASSES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MOMENTS = {  # mean and deviation of the training images' channels
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
Split = tuple[Tensor, Tensor]  # images [N, 3, 32, 32] uint8, labels [N] int64


def load_cifar10(data_dir: Path, image_size: int | None) -> InMemory:
    binary = data_dir / "cifar-10-batches-bin"
    if (data_dir / datasets.CIFAR10.base_folder).is_dir() or not binary.is_dir():
        train, test, classes = _pickled(datasets.CIFAR10, data_dir, "cifar-10")
        note = "the official test batch"
    else:
        held_out = "test_batch.bin" if (binary / "test_batch.bin").exists() else "data_batch_5.bin"
        names = [name for name in MD5 if name not in (held_out, "test_batch.bin")]
        parts = [_binary(binary / name) for name in names]
        train = torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
        test, classes = _binary(binary / held_out), CLASSES_10
        note = "the official test batch"
        if held_out == "data_batch_5.bin":
            note = (
                "data_batch_5, held out of training (test_batch.bin is not there: not the official test set)"
            )
    return _dataset("cifar10", train, test, classes, note, image_size)


def load_cifar100(data_dir: Path, image_size: int | None) -> InMemory:
    binary = data_dir / "cifar-100-binary"
    if (data_dir / datasets.CIFAR100.base_folder).is_dir() or not binary.is_dir():
        train, test, classes = _pickled(datasets.CIFAR100, data_dir, "cifar-100")
    else:
        train, test = (_binary_100(binary / name) for name in PER_CLASS_100)
        names = binary / "fine_label_names.txt"
        classes = tuple(names.read_text().split()) if names.exists() else tuple(map(str, range(100)))
    return _dataset("cifar100", train, test, classes, "the official test set", image_size)


def _dataset(
    name: str, train: Split, test: Split, classes: tuple[str, ...], note: str, image_size: int | None
) -> InMemory:
    mean, std = MOMENTS[name]
    size = image_size or SIZE
    return InMemory(
        name=name,
        shape=(3, size, size),
        classes=classes,
        note=note,
        train_images=resize(train[0], image_size),
        train_labels=train[1],
        test_images=resize(test[0], image_size),
        test_labels=test[1],
        mean=mean,
        std=std,
        augment=Augment(padding=max(1, size // 8), flip=True),
    )


def _pickled(kind: type[datasets.CIFAR10], data_dir: Path, stem: str) -> tuple[Split, Split, tuple[str, ...]]:
    """The python version; torchvision compares the MD5 of every file before it unpickles one."""
    folder = data_dir / kind.base_folder
    try:
        parts = [kind(str(data_dir), train=train) for train in (True, False)]
    except RuntimeError as error:
        if folder.is_dir():
            raise DataError(
                f"{folder} is damaged or incomplete (MD5 of its files); remove it and unpack "
                f"{URL}/{stem}-python.tar.gz into {data_dir}"
            ) from error
        binary = "cifar-10-batches-bin" if stem == "cifar-10" else "cifar-100-binary"
        raise DataError(
            f"no {stem.upper()} in {data_dir}: looked for {folder} and {data_dir / binary}; download "
            f"{URL}/{stem}-binary.tar.gz (or -python), unpack it there, and name the folder with --data-dir"
        ) from error
    train, test = (
        (
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last),
            torch.tensor(part.targets),
        )
        for part in parts
    )
    return train, test, tuple(parts[0].classes)


def _binary(path: Path) -> Split:
    """One file of records: a label byte, then 3,072 bytes of RGB planes."""
    content = _read(path, "cifar-10")
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[path.name]:
        raise DataError(_damaged(path, f"its MD5 is not {MD5[path.name]}", "cifar-10"))
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return _images(records[:, 1:]), torch.from_numpy(records[:, 0].astype(np.int64))


def _binary_100(path: Path) -> Split:
    """One file of records: coarse label, fine label, 3,072 bytes of RGB planes."""
    content = _read(path, "cifar-100")
    expected = 100 * PER_CLASS_100[path.name]
    if len(content) != expected * (2 + PIXELS):
        problem = f"{len(content):,} bytes instead of {expected * (2 + PIXELS):,}"
        raise DataError(_damaged(path, problem, "cifar-100"))
    records = np.frombuffer(content, np.uint8).reshape(-1, 2 + PIXELS)
    counts = np.bincount(records[:, 1], minlength=100)
    if len(counts) != 100 or (counts != PER_CLASS_100[path.name]).any():
        raise DataError(_damaged(path, f"not {PER_CLASS_100[path.name]} images of every class", "cifar-100"))
    return _images(records[:, 2:]), torch.from_numpy(records[:, 1].astype(np.int64))


def _images(pixels: np.ndarray) -> Tensor:
    """[N, 3072] -> [N, 3, 32, 32] uint8, channels-last in memory."""
    planes = torch.from_numpy(pixels.copy()).reshape(-1, 3, SIZE, SIZE)
    return planes.contiguous(memory_format=torch.channels_last)


def _read(path: Path, stem: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(_damaged(path, f"cannot be read ({error.strerror})", stem)) from error


def _damaged(path: Path, problem: str, stem: str) -> str:
    return f"{path} is missing or damaged: {problem}; unpack {URL}/{stem}-binary.tar.gz again"
