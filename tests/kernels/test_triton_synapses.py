"""count_synapses as a Triton kernel: the reference's integers."""

import pytest
import torch

from gee_kernels import count_synapses
from gee_kernels.synapses import reference

SHAPES = [(1, 1), (3, 5, 1), (2, 4, 3, 2), (4, 33, 17, 3), (2, 31, 13), (0, 4, 4, 2), (2, 3, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts(shape, triton_device):
    generator = torch.Generator().manual_seed(sum(shape))
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    fan_out = torch.randint(0, 2**33, shape[1:-1], generator=generator)
    out = count_synapses(bits.to(triton_device), fan_out.to(triton_device))
    assert torch.equal(out.cpu(), reference.count_synapses(bits, fan_out))


def test_every_byte(triton_device):
    bits = torch.arange(256, dtype=torch.uint8)[:, None]
    out = count_synapses(bits.to(triton_device), torch.tensor(3, device=triton_device))
    ones = torch.tensor([byte.bit_count() for byte in range(256)])
    assert torch.equal(out.cpu(), torch.stack([ones, 3 * ones], 1))


def test_strides(triton_device):
    bits = torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fan_out = torch.arange(30).reshape(5, 6).T
    views = bits[::2, :, :, :2], fan_out
    out = count_synapses(*(v.to(triton_device) for v in views))
    assert torch.equal(out.cpu(), reference.count_synapses(*views))
