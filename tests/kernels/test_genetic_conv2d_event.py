"""Plan "event" against the reference in float64: whatever the geometry, the channels, the events, the CPU."""

import pytest
import torch
from torch import Tensor

from gee_kernels import _library, decode_weight, genetic_conv2d, pack_spikes
from tests.tolerance import assert_close

GRADIENTS = ("pre", "interaction", "post")


def operands(
    c_in=70, c_out=37, genes=7, kernel=3, size=(9, 11), *, density=0.1, graded=False, dtype=torch.float32
) -> list[Tensor]:
    """x [N, C_in, H, W], channels-last, and the codes; graded x has both signs."""
    generator = torch.Generator().manual_seed(c_in + 1000 * c_out + genes)
    x = (torch.rand(3, *size, c_in, generator=generator) < density).double()
    if graded:
        x *= torch.randn(x.shape, generator=generator, dtype=torch.float64)
    draw = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(c_in, genes, kernel, kernel), (genes, genes), (c_out, genes, kernel, kernel)]
    )
    return [t.to(dtype) for t in (x.permute(0, 3, 1, 2), *draw)]


def run(function, x, *codes, grad=None, **kw) -> list[Tensor]:
    """y and the gradients of the codes under `grad` (a fixed random one)."""
    codes = [code.detach().requires_grad_() for code in codes]
    y = function(x, *codes, **kw)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad(y, codes, grad.to(y.dtype))]


def exact(x, pre, interaction, post, stride, padding) -> Tensor:
    # torch's float64 convolution wants the weight contiguous
    weight = decode_weight(pre, interaction, post, backend="reference").contiguous()
    return torch.nn.functional.conv2d(x.contiguous(), weight, None, stride, padding)


def event(*operands, **kw) -> list[Tensor]:
    return run(genetic_conv2d, *operands, plan="event", **kw)


def check(*operands, stride=1, padding=1, factor=1.0, **kw) -> None:
    dtype = operands[0].dtype
    expected = run(exact, *(t.double() for t in operands), stride=stride, padding=padding)
    actual = event(*operands, stride=stride, padding=padding, **kw)
    for name, a, e in zip(("y", *GRADIENTS), actual, expected, strict=True):
        assert a.dtype == dtype, name
        assert_close(a, e, dtype, factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("graded", [False, True], ids=["binary", "graded"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_geometry(kernel, graded, dtype):
    inputs = operands(kernel=kernel, graded=graded, dtype=dtype)
    bits = None if graded else pack_spikes(inputs[0])
    for stride in (1, 2, 3):
        for padding in (0, 1, 2):
            check(*inputs, stride=stride, padding=padding, bits=bits)


@pytest.mark.parametrize("c_in", [1, 8, 64, 128, 130, 257])
@pytest.mark.parametrize("c_out", [1, 16, 33, 64, 130])
def test_channels(c_in, c_out):
    inputs = operands(c_in, c_out, size=(5, 6))
    check(*inputs)
    check(*inputs, bits=pack_spikes(inputs[0]))
    check(*operands(c_in, c_out, size=(5, 6), dtype=torch.float64), stride=2)


@pytest.mark.parametrize("genes", [1, 7, 16, 100])
def test_genes(genes):
    check(*operands(genes=genes))


@pytest.mark.parametrize("graded", [False, True], ids=["binary", "graded"])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
def test_density(density, graded):
    check(*operands(density=density, graded=graded))


@pytest.mark.parametrize("position", [(0, 0, 0, 0), (2, 69, 8, 10), (1, 64, 0, 10), (1, 35, 4, 5)])
def test_one_spike(position):
    x, *codes = operands(density=0.0)
    x[position] = 1.0
    check(x, *codes, bits=pack_spikes(x))
    check(x, *codes, stride=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (33, 37), (2, 700)])
def test_sizes(size):
    """From one pixel to many tiles, and rows longer than a tile."""
    check(*operands(c_in=5, c_out=9, size=size))
    check(*operands(c_in=5, c_out=9, size=size), stride=2)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_instruction_set(level, dtype):
    _library.limit_isa(level)
    try:
        for graded in (False, True):
            for c_out in (5, 21, 37, 64):  # one to four lines of 64 bytes
                check(*operands(130, c_out, graded=graded, dtype=dtype))
    finally:
        _library.limit_isa("avx512")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("graded", [False, True], ids=["binary", "graded"])
def test_sixteen_bits(graded, dtype):
    check(*operands(graded=graded, dtype=dtype))


def test_any_strides():
    x, pre, interaction, post = operands(c_in=12)
    check(x.contiguous(), pre, interaction, post)
    spread = torch.zeros(6, 24, 9, 22)
    spread[::2, ::2, :, ::2] = x
    codes = pre.movedim(1, 3).contiguous().movedim(3, 1), interaction.t().contiguous().t(), post.flip(0)
    check(spread[::2, ::2, :, ::2], *codes)
    wide = torch.stack([pack_spikes(x)] * 2, -1)
    check(x, *codes, bits=wide[..., 1])


def test_bits_that_are_not_aligned():
    x, *codes = operands(c_in=64)
    bits = pack_spikes(x)
    memory = torch.empty(bits.numel() + 1, dtype=torch.uint8)
    memory[1:] = bits.flatten()
    check(x, *codes, bits=memory[1:].view(bits.shape))


def test_empty_batch():
    x, *codes = operands()
    y, *grads = event(x[:0], *codes)
    assert y.shape == (0, 37, 9, 11)
    assert all(not g.any() for g in grads)


@pytest.mark.parametrize("graded", [False, True], ids=["binary", "graded"])
def test_number_of_threads_changes_no_bit(graded):
    inputs = operands(c_in=200, c_out=100, graded=graded)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(event(*inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_ones_as_values_give_the_same_bits_as_spikes():
    x, *codes = operands()
    for a, b in zip(event(x, *codes), event(x, *codes, bits=pack_spikes(x)), strict=True):
        assert torch.equal(a, b)
