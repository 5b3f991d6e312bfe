"""spike_overlaps as a Triton kernel: the reference's integers."""

import pytest
import torch

from gee_kernels import spike_overlaps, spike_rdm
from gee_kernels.rdm import reference

# [T * B, *space, bytes], T: one byte, a tile and a bit of images, several runs of bytes, nothing
SHAPES = [((1, 1), 1), ((6, 5, 3), 2), ((12, 4, 3, 2), 3), ((67, 9, 5), 1), ((6, 33, 131), 2), ((0, 4, 2), 2)]


@pytest.mark.parametrize(("shape", "time_steps"), [*SHAPES, ((4, 0, 3), 2)], ids=str)
def test_overlaps(shape, time_steps, triton_device):
    generator = torch.Generator().manual_seed(sum(shape))
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    out = spike_overlaps(bits.to(triton_device), time_steps=time_steps)
    assert torch.equal(out.cpu(), reference.spike_overlaps(bits, time_steps))


def test_all_ones(triton_device):
    bits = torch.full((3, 600), 255, dtype=torch.uint8)
    assert (spike_overlaps(bits.to(triton_device)).cpu() == 4800).all()


def test_strides_and_metrics(triton_device):
    bits = torch.randint(0, 256, (8, 6, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    view = bits[:, ::2, :, :2]
    for metric in ("hamming", "cosine", "correlation"):
        out = spike_rdm(view.to(triton_device), 16, time_steps=2, metric=metric)
        expected = spike_rdm(view, 16, time_steps=2, metric=metric, backend="reference")
        assert torch.allclose(out.cpu(), expected, rtol=0, atol=1e-15)
