"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, nothing to download.

They are the test part of UCI's optdigits and have no split of their own: 360 images, the same share of every
class, are held out by a fixed draw (`train_test_split(test_size=360, stratify=labels, random_state=0)`), so
a writer may appear on both sides.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gee.data.augment import Augment
from gee.data.dataset import InMemory, resize

HELD_OUT = 360


def load(data_dir: Path, image_size: int | None) -> InMemory:
    source = load_digits()
    pixels = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]  # [1797, 1, 8, 8], from 0..16
    images, labels = torch.from_numpy(pixels), torch.from_numpy(source.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=source.target, random_state=0
    )
    images = resize(images, image_size)
    return InMemory(
        name="digits",
        shape=tuple(images.shape[1:]),
        classes=tuple(str(digit) for digit in range(10)),
        note=f"a fixed stratified draw of {HELD_OUT} of scikit-learn's digits",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        mean=(0.3054,),
        std=(0.3762,),
        augment=Augment(padding=max(1, images.shape[-1] // 8)),
    )
