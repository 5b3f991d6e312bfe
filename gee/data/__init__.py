"""Data sets behind one small interface.

    data = gee.data.load("cifar10", data_dir="data")
    for images, labels in data.train_batches(64, seed=0, epoch=0): ...      # augmented, shuffled
    for images, labels in data.test_batches(256): ...

`digits` (the default: real handwritten digits that come with scikit-learn) needs no files; the others are
read from `data_dir` and never downloaded.
"""

from collections.abc import Callable
from pathlib import Path

from gee.data import cifar, digits, imagenet
from gee.data.dataset import DataError, Dataset, InMemory

__all__ = ["DataError", "Dataset", "InMemory", "list_datasets", "load"]

_LOADERS: dict[str, Callable[[Path, int | None], Dataset]] = {
    "digits": digits.load,
    "cifar10": cifar.load_cifar10,
    "cifar100": cifar.load_cifar100,
    "imagenet": imagenet.load,
}


def list_datasets() -> list[str]:
    """The names that `load` knows."""
    return list(_LOADERS)


def load(name: str = "digits", data_dir: str | Path = "data", *, image_size: int | None = None) -> Dataset:
    """Load the data set `name`.

    Args:
        name: one of `list_datasets()`.
        data_dir: the folder with the data set's own folder (`cifar-10-batches-py` or `cifar-10-batches-bin`,
            `cifar-100-python` or `cifar-100-binary`; for ImageNet `train` and `val`). `digits` needs none.
        image_size: height and width in pixels to which images are resized; None: as they are (ImageNet: 224).

    Raises:
        ValueError: the name is unknown, or image_size is not positive.
        DataError: the files are missing or damaged; it says what was looked for, where, and how to get it.
    """
    if name not in _LOADERS:
        raise ValueError(f"dataset must be one of {', '.join(_LOADERS)}, got {name!r}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be positive, got {image_size}")
    return _LOADERS[name](Path(data_dir), image_size)
