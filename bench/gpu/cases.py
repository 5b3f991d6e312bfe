"""What is run on a GPU: every operator, with the bytes and operations that it cannot do without."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import gee_kernels


@dataclass(frozen=True)
class Size:
    """A layer: images (T * B), channels in and out, side of the square image, genes."""

    time_steps: int
    batch: int
    channels: int
    side: int
    genes: int

    @property
    def images(self) -> int:
        return self.time_steps * self.batch

    def __str__(self) -> str:
        return f"T={self.time_steps} B={self.batch} C={self.channels} {self.side}x{self.side} g={self.genes}"


# The three stages of ResNet-19 on 32x32 images, and what a dry run takes in their place.
STAGES = [Size(4, 128, 128, 32, 100), Size(4, 128, 256, 16, 100), Size(4, 128, 512, 8, 100)]
TINY = [Size(2, 1, 8, 4, 3)]


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Attributes:
        run: contestants by name, "gee" and its peers; no arguments, returns tensors to be compared.
        gigabytes: memory that must move, each input read once and each output written once.
        gigaflop: multiplications and additions of the dense convolution, 0 where there is none.
        limit: relative error allowed between contestants; None: what the dtype allows.
    """

    name: str
    size: Size
    run: dict[str, Callable[[], Any]]
    gigabytes: float
    gigaflop: float = 0.0
    limit: float | None = None


def cases(sizes: list[Size], dtype: torch.dtype, device: str) -> Iterator[Case]:
    """Every operator at every size; tensors are made when a case is asked for."""
    for size in sizes:
        yield from _neurons(size, dtype, device)
        yield from _convolutions(size, dtype, device)


def _gigabytes(*tensors: Tensor) -> float:
    return sum(t.numel() * t.element_size() for t in tensors) / 1e9


def _images(size: Size, dtype: torch.dtype, device: str) -> Tensor:
    shape = size.images, size.channels, size.side, size.side
    return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)


def _gradient(
    call: Callable[[], Tensor], inputs: list[Tensor], grad: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: torch.autograd.grad(call(), inputs, grad)


def _neurons(size: Size, dtype: torch.dtype, device: str) -> Iterator[Case]:
    x, grad = _images(size, dtype, device), _images(size, dtype, device)
    residual = (_images(size, dtype, device) > 1).to(dtype)
    bits = gee_kernels.pack_spikes(residual)
    vectors = [torch.ones(size.channels, device=device), torch.zeros(size.channels, device=device)]
    running = [torch.zeros(size.channels, device=device), torch.ones(size.channels, device=device)]
    steps = x.unflatten(0, (size.time_steps, size.batch))

    def lif(backend: str, values: Tensor = steps) -> Tensor:
        return gee_kernels.lif(values, backend=backend)

    def norm(backend: str, values: Tensor = x) -> Tensor:
        return gee_kernels.batch_norm_lif(
            values,
            *vectors,
            *running,
            residual,
            time_steps=size.time_steps,
            residual_bits=bits,
            backend=backend,
        ).spikes

    both = ("gee", "fused"), ("reference", "reference")
    packs = {name: lambda b=b: gee_kernels.pack_spikes(residual, backend=b) for name, b in both}
    yield Case("pack_spikes", size, packs, _gigabytes(residual, bits), limit=0.0)
    unpacks = {
        name: lambda b=b: gee_kernels.unpack_spikes(bits, size.channels, dtype, backend=b) for name, b in both
    }
    yield Case("unpack_spikes", size, unpacks, _gigabytes(residual, bits), limit=0.0)
    fan_out = torch.full((size.side, size.side), 9 * size.channels, device=device)
    counts = {name: lambda b=b: gee_kernels.count_synapses(bits, fan_out, backend=b) for name, b in both}
    yield Case("count_synapses", size, counts, _gigabytes(bits), limit=0.0)
    yield Case("lif forward", size, {n: lambda b=b: lif(b) for n, b in both}, _gigabytes(x, x), limit=0.0)
    leaf = steps.detach().requires_grad_()
    grads = {n: _gradient(lambda b=b: lif(b, leaf), [leaf], grad.view_as(leaf)) for n, b in both}
    yield Case("lif forward and backward", size, grads, _gigabytes(x, x, x, grad, x))
    yield Case(
        "batch_norm_lif forward",
        size,
        {n: lambda b=b: norm(b) for n, b in both},
        _gigabytes(x, x, bits, x, bits),
    )
    leaf_x = x.detach().requires_grad_()
    grads = {n: _gradient(lambda b=b: norm(b, leaf_x), [leaf_x], grad) for n, b in both}
    least = _gigabytes(x, x, bits, x, bits) + 2 * _gigabytes(x, bits, grad) + _gigabytes(x)
    yield Case("batch_norm_lif forward and backward", size, grads, least)


def _convolutions(size: Size, dtype: torch.dtype, device: str) -> Iterator[Case]:
    c, g = size.channels, size.genes
    x, grad = (_images(size, dtype, device) > 1).to(dtype), _images(size, dtype, device)
    bits = gee_kernels.pack_spikes(x)
    scale = (9 * c) ** -0.25
    pre, post = (torch.randn(c, g, 3, 3, device=device).mul(scale / g**0.5).to(dtype) for _ in range(2))
    interaction = (torch.randn(g, g, device=device) * g**-0.5).to(dtype)
    codes = pre, interaction, post
    weight = gee_kernels.decode_weight(*codes, backend="reference").to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    gigaflop = 2 * 9 * c * c * size.images * size.side**2 / 1e9

    def convolve(plan: str, x: Tensor = x, codes=codes) -> Tensor:
        return gee_kernels.genetic_conv2d(x, *codes, plan=plan, bits=bits)

    def dense(x: Tensor = x, weight: Tensor = weight) -> Tensor:
        return torch.nn.functional.conv2d(x, weight, None, 1, 1)

    decode = {
        n: lambda b=b: gee_kernels.decode_weight(*codes, backend=b)
        for n, b in (("gee", "fused"), ("reference", "reference"))
    }
    yield Case("decode_weight", size, decode, _gigabytes(weight, *codes), 2 * 9 * c * g * (g + c) / 1e9)
    plans = {"gee": "auto", "reconstruct": "reconstruct", "gene": "gene", "materialize": "materialize"}
    run: dict[str, Callable] = {name: lambda p=p: convolve(p) for name, p in plans.items()}
    yield Case("genetic_conv2d forward", size, run | {"dense": dense}, _gigabytes(bits, *codes, x), gigaflop)
    leaves = [t.detach().requires_grad_() for t in (x, *codes)]
    run = {
        name: _gradient(lambda p=p: convolve(p, leaves[0], leaves[1:]), leaves, grad)
        for name, p in plans.items()
    }
    least = 2 * _gigabytes(bits, *codes) + _gigabytes(x, grad, x, *codes)
    yield Case("genetic_conv2d forward and backward", size, run, least, 3 * gigaflop)
    ones, zeros = torch.ones(c, device=device), torch.zeros(c, device=device)
    run = {
        n: lambda b=b: (
            gee_kernels.genetic_conv2d_lif(
                x, *codes, ones, zeros, time_steps=size.time_steps, bits=bits, backend=b
            ).spikes
        )
        for n, b in (("gee", "fused"), ("reference", "reference"))
    }
    # A pre-activation rounded otherwise can move a neuron over the threshold, and its spike by a whole 1.
    yield Case("genetic_conv2d_lif", size, run, _gigabytes(bits, *codes, x, bits), gigaflop, limit=0.3)
