"""gee.data: what is loaded is what lies in the files, batches depend on (seed, epoch) alone, errors teach."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

import gee.data
from gee.data import cifar
from gee.data.augment import Augment
from gee.data.dataset import epoch_generator

# -- digits, and the batches of every data set in memory


@pytest.fixture(scope="module")
def digits():
    return gee.data.load("digits")


def test_digits_are_the_real_ones_split_without_overlap(digits):
    assert digits.shape == (1, 8, 8)
    assert len(digits.classes) == 10
    assert (digits.train_size, digits.test_size) == (1437, 360)
    assert digits.test_labels.bincount().min() >= 34  # stratified
    source = datasets_of_sklearn()
    ours = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert sorted(map(bytes, ours.numpy())) == sorted(map(bytes, source))


def datasets_of_sklearn():
    from sklearn.datasets import load_digits

    return np.rint(load_digits().data / 16 * 255).astype(np.uint8)


def test_digits_split_is_fixed(digits):
    """A change of the split makes accuracies incomparable: it must be noticed."""
    assert hashlib.md5(digits.test_images.numpy().tobytes()).hexdigest() == "d6d048cbc9d9faaeadd189e607ed2264"
    assert digits.test_labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]


def test_test_batches_are_normalised_and_complete(digits):
    images, labels = (torch.cat(parts) for parts in zip(*digits.test_batches(100), strict=True))
    assert images.shape == (360, 1, 8, 8)
    assert images.dtype == torch.float32
    assert torch.equal(labels, digits.test_labels)
    train = digits.normalise(digits.train_images)
    assert abs(train.mean()) < 0.01
    assert abs(train.std() - 1) < 0.01


def test_an_epoch_is_a_function_of_seed_and_epoch(digits):
    def epoch(seed, number):
        return list(digits.train_batches(64, seed=seed, epoch=number))

    first = epoch(0, 3)
    assert len(first) == digits.steps_per_epoch(64) == 22
    for one, other in zip(first, epoch(0, 3), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(first[0].labels, epoch(0, 4)[0].labels)
    assert not torch.equal(first[0].labels, epoch(1, 3)[0].labels)
    assert not torch.equal(epoch(0, 1)[0].labels, epoch(1, 0)[0].labels)


def test_an_epoch_visits_images_once(digits):
    labels = torch.cat([batch.labels for batch in digits.train_batches(1437, seed=5, epoch=0)])
    assert torch.equal(labels.bincount(), digits.train_labels.bincount())
    assert digits.steps_per_epoch(5000) == 1  # a batch is never larger than the data


def test_ranks_share_the_joint_batch(digits):
    joint = next(digits.train_batches(64, seed=0, epoch=0))
    parts = [next(digits.train_batches(64, seed=0, epoch=0, rank=rank, world=4)) for rank in range(4)]
    assert torch.equal(torch.cat([part.images for part in parts]), joint.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), joint.labels)
    tests = [torch.cat([b.labels for b in digits.test_batches(50, rank=r, world=7)]) for r in range(7)]
    assert torch.equal(torch.cat(tests).bincount(), digits.test_labels.bincount())
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, got 64"):
        next(digits.train_batches(64, seed=0, epoch=0, rank=0, world=3))


def test_subset_and_resize(digits):
    small = digits.subset(train=20, test=10)
    assert (small.train_size, small.test_size, digits.train_size) == (20, 10, 1437)
    assert torch.equal(small.test_labels, digits.test_labels[:10])
    large = gee.data.load("digits", image_size=16)
    assert large.shape == (1, 16, 16)
    assert next(large.train_batches(8, seed=0, epoch=0)).images.shape == (8, 1, 16, 16)
    expected = v2.functional.resize(digits.test_images, [16, 16], antialias=True)
    assert torch.equal(large.test_images, expected)


# -- augmentation


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("padding", "size"), [(0, (5, 5)), (2, (5, 7)), (4, (6, 6))])
def test_augmentation_equals_torchvisions_crop_and_flip(padding, flip, size):
    augment = Augment(padding, flip)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (40, 3, *size), generator=generator, dtype=torch.uint8)
    draws = augment.draw(40, generator)
    out = augment(images, draws)
    for image, (top, left, mirrored), got in zip(images, draws.tolist(), out, strict=True):
        expected = v2.functional.crop(v2.functional.pad(image, [padding]), top, left, *size)
        expected = v2.functional.horizontal_flip(expected) if mirrored else expected
        assert torch.equal(got, expected)


def test_draws_cover_their_range_evenly():
    draws = Augment(padding=2, flip=True).draw(20_000, torch.Generator().manual_seed(0))
    for column, count in ((0, 5), (1, 5), (2, 2)):
        shares = draws[:, column].bincount() / len(draws)
        assert len(shares) == count
        assert torch.allclose(shares, torch.full((count,), 1 / count), atol=0.015)
    still = Augment(padding=0, flip=False).draw(10, torch.Generator())
    assert still.count_nonzero() == 0


def test_epoch_generators_differ():
    seeds = {epoch_generator(seed, epoch).initial_seed() for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900


# -- CIFAR from small files of our own with their own checksums


def write_batch(path, count, generator, header=1):
    records = torch.randint(0, 256, (count, header + cifar.PIXELS), generator=generator, dtype=torch.uint8)
    records[:, 0] %= 10
    path.write_bytes(records.numpy().tobytes())
    return records


@pytest.fixture
def binary10(tmp_path, monkeypatch):
    """A folder with a CIFAR-10 of 8 images per batch, and its records."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    records = {name: write_batch(folder / name, 8, generator) for name in cifar.MD5}
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in records}
    monkeypatch.setattr(cifar, "MD5", sums)
    return tmp_path, records


def test_cifar10_binary_with_the_official_test_batch(binary10):
    folder, records = binary10
    data = gee.data.load("cifar10", folder)
    assert data.shape == (3, 32, 32)
    assert (data.train_size, data.test_size) == (40, 8)
    assert "official test batch" in data.note
    record = records["data_batch_2.bin"][3]
    assert data.train_labels[8 + 3] == record[0]
    assert torch.equal(data.train_images[8 + 3].flatten(), record[1:])
    assert torch.equal(data.test_labels, records["test_batch.bin"][:, 0].long())
    assert next(data.train_batches(8, seed=0, epoch=0)).images.shape == (8, 3, 32, 32)


def test_cifar10_without_test_batch_holds_batch_5_out_and_says_so(binary10):
    folder, records = binary10
    (folder / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    data = gee.data.load("cifar10", folder)
    assert (data.train_size, data.test_size) == (32, 8)
    assert torch.equal(data.test_labels, records["data_batch_5.bin"][:, 0].long())
    assert "data_batch_5" in data.note
    assert "not the official test set" in data.note


def test_damaged_and_missing_binary_files_are_named(binary10):
    folder, _ = binary10
    path = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        gee.data.DataError, match=r"data_batch_3\.bin is missing or damaged: its MD5 .*cifar-10-binary"
    ):
        gee.data.load("cifar10", folder)
    path.unlink()
    with pytest.raises(gee.data.DataError, match=r"data_batch_3\.bin is missing or damaged: cannot be read"):
        gee.data.load("cifar10", folder)


def test_cifar10_pickled_is_read_by_torchvision(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    lists, pixels = {"train_list": [], "test_list": []}, {}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        pixels[name] = torch.randint(
            0, 256, (4, cifar.PIXELS), generator=generator, dtype=torch.uint8
        ).numpy()
        content = pickle.dumps({"data": pixels[name], "labels": [0, 1, 2, 3]})
        (folder / name).write_bytes(content)
        lists["test_list" if name == "test_batch" else "train_list"].append(
            [name, hashlib.md5(content).hexdigest()]
        )
    meta = pickle.dumps({"label_names": list(cifar.CLASSES_10)})
    (folder / "batches.meta").write_bytes(meta)
    for key, value in lists.items():
        monkeypatch.setattr(datasets.CIFAR10, key, value)
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", hashlib.md5(meta).hexdigest())
    data = gee.data.load("cifar10", tmp_path)
    assert (data.train_size, data.test_size, data.classes) == (8, 4, cifar.CLASSES_10)
    assert (data.train_images[5].flatten().numpy() == pixels["data_batch_2"][1]).all()
    assert data.test_labels.tolist() == [0, 1, 2, 3]


class Exploit:
    def __reduce__(self):
        return (print, ("THE PICKLE RAN",))


def test_a_hostile_pickle_in_the_place_of_cifar_is_not_opened(tmp_path, capsys):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ):
        (folder / name).write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(
        gee.data.DataError, match=r"cifar-10-batches-py is damaged or incomplete .*cifar-10-python"
    ):
        gee.data.load("cifar10", tmp_path)
    assert "THE PICKLE RAN" not in capsys.readouterr().out


def test_cifar100_binary_uses_the_fine_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "PER_CLASS_100", {"train.bin": 2, "test.bin": 1})
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    fine = {}
    for name, per_class in cifar.PER_CLASS_100.items():
        records = write_batch(folder / name, 100 * per_class, generator, header=2)
        fine[name] = torch.randperm(100 * per_class, generator=generator) % 100
        records[:, 1] = fine[name]
        (folder / name).write_bytes(records.numpy().tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)) + "\n")
    data = gee.data.load("cifar100", tmp_path)
    assert torch.equal(data.train_labels, fine["train.bin"])
    assert torch.equal(data.test_labels, fine["test.bin"])
    assert torch.equal(data.test_images[7].flatten(), records[7, 2:])
    assert data.classes[42] == "class42"

    records[0, 1] = (records[0, 1] + 1) % 100
    (folder / "test.bin").write_bytes(records.numpy().tobytes())
    with pytest.raises(
        gee.data.DataError, match=r"test\.bin is missing or damaged: not 1 images of every class"
    ):
        gee.data.load("cifar100", tmp_path)
    (folder / "test.bin").write_bytes(b"short")
    with pytest.raises(
        gee.data.DataError, match=r"test\.bin is missing or damaged: 5 bytes instead of 307,400"
    ):
        gee.data.load("cifar100", tmp_path)


# -- missing data, ImageNet


@pytest.mark.parametrize(
    ("name", "looked_for"),
    [("cifar10", "cifar-10-batches-bin"), ("cifar100", "cifar-100-binary"), ("imagenet", "train/<class>")],
)
def test_missing_data_says_what_where_and_how(tmp_path, name, looked_for):
    with pytest.raises(gee.data.DataError) as caught:
        gee.data.load(name, tmp_path / "nowhere")
    for part in (looked_for, str(tmp_path / "nowhere"), "--data-dir", "unpack"):
        assert part in str(caught.value)


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"dataset must be one of digits, cifar10, .*, got 'mnist'"):
        gee.data.load("mnist")
    with pytest.raises(ValueError, match="image_size must be positive, got 0"):
        gee.data.load("digits", image_size=0)


def write_images(root, split, classes, count):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / split / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{index}.JPEG")


def test_imagenet_layout(tmp_path):
    write_images(tmp_path, "train", ["n01", "n02"], 3)
    write_images(tmp_path, "val", ["n01", "n02"], 2)
    data = gee.data.load("imagenet", tmp_path, image_size=24)
    data.workers = 0
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((3, 24, 24), ("n01", "n02"), 6, 4)
    batches = list(data.train_batches(4, seed=0, epoch=0))
    assert len(batches) == data.steps_per_epoch(4) == 1
    assert batches[0].images.shape == (4, 3, 24, 24)
    labels = torch.cat([batch.labels for batch in data.test_batches(3)])
    assert labels.tolist() == [0, 0, 1, 1]
    data.workers = 1  # the workers' draws come from (seed, epoch) too
    once, again = (next(data.train_batches(4, seed=0, epoch=1)) for _ in range(2))
    assert torch.equal(once.images, again.images)
    parts = [next(data.train_batches(4, seed=0, epoch=1, rank=rank, world=2)).labels for rank in range(2)]
    assert torch.equal(torch.cat(parts), once.labels)
    (tmp_path / "val" / "n02").rename(tmp_path / "val" / "n03")
    with pytest.raises(gee.data.DataError, match="same classes; only one holds n02, n03"):
        gee.data.load("imagenet", tmp_path)
