"""spike_rdm against what plain PyTorch offers for the same matrix, and against reading the bits once.

`pytest --benchmark bench/bench_rdm.py` writes bench/results/rdm.json and rdm.png.

PyTorch starts from unpacked spikes, in the type that suits it best: bool for the loop over pairs, which
counts differing entries of two images at a time; float32 for the matrix product, which is exact here (below
2^24 spikes). "read of the bits" sums the same bytes as 64-bit integers; those of a layer may be served by a
cache, the 64 MiB of "overlaps from memory" are not.
"""

import pytest
import torch
from torch import Tensor

from bench._measure import Table, report
from gee_kernels import spike_overlaps, spike_rdm, unpack_spikes


@pytest.fixture(scope="module")
def table():
    table = Table("rdm")
    yield table
    table.write()


def pairwise_loop(x: Tensor) -> Tensor:
    """Differing spikes of x [B, N] bool, as a share."""
    rdm = torch.zeros(len(x), len(x), dtype=torch.float64)
    for i in range(len(x)):
        for j in range(i):
            rdm[i, j] = rdm[j, i] = (x[i] != x[j]).sum() / x.shape[1]
    return rdm


def product(x: Tensor) -> Tensor:
    """The same from x [B, N] float32 by a matrix product."""
    shared = x @ x.T
    spikes = shared.diagonal()
    return (spikes[:, None] + spikes - 2 * shared).double() / x.shape[1]


def vectors(bits: Tensor, channels: int, steps: int, dtype: torch.dtype) -> Tensor:
    x = unpack_spikes(bits, channels).movedim(1, -1)
    return x.unflatten(0, (steps, -1)).transpose(0, 1).flatten(1).to(dtype)


@pytest.mark.parametrize(
    ("images", "channels", "side"), [(128, 128, 16), (128, 512, 4)], ids=["128 channels", "512 channels"]
)
def test_layer(benchmark, table, images, channels, side):
    steps = 4
    generator = torch.Generator().manual_seed(0)
    shape = steps * images, side, side, channels // 8
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    x, x_bool = (vectors(bits, channels, steps, dtype) for dtype in (torch.float32, torch.bool))
    words = bits.view(torch.int64)

    def verify():
        ours = spike_rdm(bits, channels, time_steps=steps)
        assert torch.equal(ours, product(x))
        assert torch.allclose(ours, pairwise_loop(x_bool), rtol=0, atol=1e-7)

    contestants = {
        "gee": lambda: spike_rdm(bits, channels, time_steps=steps),
        "pairwise loop": lambda: pairwise_loop(x_bool),
        "float32 matrix product": lambda: product(x),
        "read of the bits": words.sum,
    }
    rows = table.add(
        "RDM of a layer",
        contestants,
        baseline="pairwise loop",
        verify=verify,
        rounds=5,
        warmup=1,
        images=images,
        steps=steps,
        channels=channels,
        side=side,
    )
    assert rows["gee"].speedup.median > 50
    report(benchmark, rows, "gee", contestants["gee"])


@pytest.mark.parametrize("images", [4, 8, 16, 128])
def test_memory(benchmark, table, images):
    """64 MiB of bits, shared out among more and more images: where memory ends and counting begins."""
    size = (64 << 20) // images
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 256, (images, size), dtype=torch.uint8, generator=generator)
    words = bits.view(torch.int64)

    def verify():
        shared = spike_overlaps(bits)
        assert shared[1, 0] == sum((a & b).bit_count() for a, b in zip(*bits[:2].tolist(), strict=True))

    contestants = {"gee": lambda: spike_overlaps(bits), "read of the bits": words.sum}
    rows = table.add(
        "overlaps from memory",
        contestants,
        baseline="read of the bits",
        verify=verify,
        rounds=9,
        images=images,
        megabytes=64,
    )
    report(benchmark, rows, "gee", contestants["gee"])
