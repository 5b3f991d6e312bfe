"""pack_spikes and unpack_spikes as Triton kernels: bit for bit the reference."""

import pytest
import torch

from gee_kernels import pack_spikes, unpack_spikes
from gee_kernels.spikes import reference

SHAPES = [
    (1, 1),
    (5, 3),
    (3, 8, 1, 1),
    (2, 9, 3, 5),
    (1, 96, 2, 3),
    (2, 17, 4),
    (3, 140, 2, 1),
    (0, 4, 2, 2),
    (2, 3, 0, 1),
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def spikes(shape, dtype, device="cpu", density=0.4):
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.rand(shape, generator=generator) < density).to(dtype).to(device)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pack(shape, dtype, triton_device):
    x = spikes(shape, dtype)
    assert torch.equal(pack_spikes(x.to(triton_device)).cpu(), reference.pack_spikes(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpack(shape, dtype, triton_device):
    x = spikes(shape, dtype)
    out = unpack_spikes(reference.pack_spikes(x).to(triton_device), shape[1], dtype)
    assert out.dtype == dtype
    assert torch.equal(out.cpu(), x)
    assert (
        out.stride()
        == torch.ops.gee_kernels.unpack_spikes(pack_spikes(x).to("meta"), shape[1], dtype).stride()
    )


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[::2, 1::2, :, ::3],
        lambda x: x[:, :, :1].expand(-1, -1, 4, -1),
    ],
    ids=["channels_last", "transposed", "sliced", "expanded"],
)
def test_pack_strides(view, triton_device):
    x = spikes((4, 11, 5, 6), torch.float32)
    assert torch.equal(pack_spikes(view(x.to(triton_device))).cpu(), reference.pack_spikes(view(x)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_nonzero_is_a_spike(dtype, triton_device):
    values = [
        torch.finfo(dtype).tiny,
        -1.0,
        float("nan"),
        float("inf"),
        0.0,
        -0.0,
        torch.finfo(dtype).max,
        2.0,
    ]
    x = torch.tensor(values, dtype=dtype, device=triton_device)[None]  # [1, 8]
    assert pack_spikes(x).item() == 0b11001111


def test_float64_is_refused(triton_device):
    bits = torch.zeros(2, 1, dtype=torch.uint8, device=triton_device)
    with pytest.raises(TypeError, match="float64"):
        unpack_spikes(bits, 3, torch.float64)
