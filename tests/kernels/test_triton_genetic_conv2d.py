"""genetic_conv2d and decode_weight as Triton kernels against the reference in float64, both directions."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gee_kernels import decode_weight, genetic_conv2d, pack_spikes
from gee_kernels.genetic_conv2d import reference, triton_kernel
from gee_kernels.genetic_conv2d.triton_backward import _splits
from gee_kernels.genetic_conv2d.triton_host import gene_chunks
from tests.tolerance import assert_close

PLANS = ["reconstruct", "gene"]
# N, C_in, C_out, genes, kernel, height, width, stride, padding
GEOMETRIES = [
    (2, 5, 7, 7, 3, 5, 6, 1, 1),
    (1, 40, 33, 16, 2, 4, 5, 2, 1),  # more than one tile of channels, odd width halved
    (3, 9, 1, 1, 3, 5, 5, 2, 0),
    (1, 1, 20, 100, 2, 3, 4, 1, 0),  # three chunks of genes
    (2, 3, 4, 5, 1, 5, 4, 2, 0),  # classes of pixels that no tap reads
    (1, 2, 3, 3, 3, 1, 2, 2, 1),  # fewer pixels than classes
    (5, 4, 4, 2, 3, 3, 4, 3, 2),
]


def make(geometry, dtype, device, binary=True, scale=1.0):
    n, c_in, c_out, genes, k, height, width, *_ = geometry
    generator = torch.Generator().manual_seed(sum(geometry))

    def normal(*shape):
        return torch.randn(shape, generator=generator) * scale

    x = (torch.rand(n, c_in, height, width, generator=generator) < 0.4).float()
    x = x if binary else normal(*x.shape)
    codes = normal(c_in, genes, k, k), normal(genes, genes), normal(c_out, genes, k, k)
    return [t.to(device, dtype).requires_grad_() for t in (x, *codes)]


def run(function, tensors, geometry, **options):
    """y and the four gradients; the gradient to y is fixed, so that y's own rounding does not enter."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = function(*tensors, *geometry[-2:], **options)
    seed = torch.Generator().manual_seed(7)
    grad = torch.randn(y.shape, generator=seed).bfloat16().to(y.device, y.dtype)
    return y, *torch.autograd.grad(y, tensors, grad)


def check(tensors, geometry, dtype, factor=1.0, **options):
    out = run(genetic_conv2d, tensors, geometry, **options)
    expected = run(reference.genetic_conv2d, [t.double() for t in tensors], geometry)
    for name, a, b in zip(("y", "x", "pre", "interaction", "post"), out, expected, strict=True):
        assert a.dtype == dtype, name
        assert_close(a, b, dtype, factor)
    return out


@pytest.mark.parametrize("bits", [False, True], ids=["values", "bits"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_geometry(geometry, plan, bits, triton_device):
    tensors = make(geometry, torch.float32, triton_device)
    y, *_ = check(
        tensors, geometry, torch.float32, plan=plan, bits=pack_spikes(tensors[0].detach()) if bits else None
    )
    assert y.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit(dtype, plan, triton_device):
    geometry = GEOMETRIES[0]
    for bits in (False, True):
        tensors = make(geometry, dtype, triton_device, binary=bits)
        check(tensors, geometry, dtype, plan=plan, bits=pack_spikes(tensors[0].detach()) if bits else None)


@pytest.mark.parametrize("plan", PLANS)
def test_96_channels(plan, triton_device):
    geometry = (1, 96, 96, 20, 1, 3, 3, 1, 0)
    check(make(geometry, torch.float32, triton_device), geometry, torch.float32, plan=plan)


@pytest.mark.parametrize("plan", PLANS)
def test_more_genes_than_one_pass(plan, triton_device):
    geometry = (1, 2, 3, 260, 1, 3, 2, 1, 0)
    assert gene_chunks(260, plan, torch.float16)["GROUPS"] > 1
    check(make(geometry, torch.bfloat16, triton_device), geometry, torch.bfloat16, plan=plan)


@pytest.mark.parametrize("plan", PLANS)
def test_rows_split_over_programs(plan, triton_device):
    geometry = (5, 3, 2, 2, 1, 11, 10, 1, 0)  # 550 rows
    assert _splits(550, 1, 32)[0] > 1
    check(make(geometry, torch.float32, triton_device), geometry, torch.float32, plan=plan)


@pytest.mark.parametrize(
    "view", [lambda x: x.transpose(2, 3), lambda x: x[:, ::2, 1:, ::2], lambda x: x[:, :, :1]]
)
def test_strides(view, triton_device):
    x, *_ = make((2, 6, 3, 3, 2, 5, 7, 1, 1), torch.float32, triton_device, binary=False)
    x = view(x)
    geometry = (2, x.shape[1], 3, 3, 2, *x.shape[2:], 1, 1)
    _, *codes = make(geometry, torch.float32, triton_device)
    codes[0] = codes[0].mT.contiguous().mT
    check([x, *codes], geometry, torch.float32, plan="gene")
    check(
        [x.expand(2, *x.shape[1:]) if len(x) == 1 else x, *codes], geometry, torch.float32, plan="reconstruct"
    )


@pytest.mark.parametrize("plan", PLANS)
def test_empty_batch(plan, triton_device):
    geometry = (0, 3, 4, 5, 3, 4, 4, 1, 1)
    y, grad_x, *grads = run(genetic_conv2d, make(geometry, torch.float32, triton_device), geometry, plan=plan)
    assert y.shape == (0, 4, 4, 4)
    assert grad_x.shape == (0, 3, 4, 4)
    assert all(g.isfinite().all() and not g.any() for g in grads)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 1e8), (torch.bfloat16, 1e8), (torch.float32, 1e-8)]
)
def test_extreme_values(dtype, scale, plan, triton_device):
    geometry = (1, 3, 4, 5, 3, 3, 3, 1, 1)
    check(make(geometry, dtype, triton_device, binary=False, scale=scale), geometry, dtype, plan=plan)


@pytest.mark.parametrize("plan", PLANS)
def test_nan_stays_with_its_images_and_reach(plan, triton_device):
    geometry = (2, 3, 4, 5, 3, 5, 5, 1, 1)
    x, *codes = (t.detach() for t in make(geometry, torch.float32, triton_device, binary=False))
    x[1, 0, 0, 0] = float("nan")
    bad = genetic_conv2d(x, *codes, plan=plan).isnan().cpu()
    assert bad[1, :, :2, :2].all()
    assert bad.sum() == 4 * 2 * 2


@pytest.mark.parametrize("plan", PLANS)
def test_only_what_is_wanted(plan, triton_device):
    geometry = (2, 5, 7, 7, 2, 3, 4, 1, 1)
    tensors = make(geometry, torch.float32, triton_device)
    everything = run(genetic_conv2d, tensors, geometry, plan=plan)
    for i, tensor in enumerate(tensors):
        alone = [t.detach() for t in tensors]
        alone[i] = tensor.detach().requires_grad_()
        y = genetic_conv2d(*alone, *geometry[-2:], plan=plan)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).bfloat16().to(y)
        assert torch.equal(torch.autograd.grad(y, alone[i], grad)[0], everything[1 + i])


@pytest.mark.parametrize("plan", PLANS)
def test_repeats_exactly(plan, triton_device):
    geometry = (2, 5, 7, 7, 2, 5, 5, 1, 1)
    tensors = make(geometry, torch.bfloat16, triton_device)
    first, second = (run(genetic_conv2d, tensors, geometry, plan=plan) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Sizes(TorchDispatchMode):
    """The sizes of all tensors that any operator returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.seen |= {t.numel() for t in tensors if t.is_floating_point()}
        return out


@pytest.mark.parametrize("plan", PLANS)
def test_the_weight_never_exists(plan, triton_device):
    geometry = (1, 48, 40, 4, 3, 2, 2, 1, 1)
    weight = 48 * 40 * 9
    x, *codes = (t.detach() for t in make(geometry, torch.float32, triton_device))
    grad = x.new_ones(1, 40, 2, 2)
    with Sizes() as sizes:  # the launchers themselves: no mode looks inside an operator
        triton_kernel.genetic_conv2d(x, *codes, None, 1, 1, plan, -1.0)
        triton_kernel.genetic_conv2d_grad_x(grad, *codes, 2, 2, 1, 1, plan)
        triton_kernel.genetic_conv2d_grad_codes(grad, x, None, *codes, 1, 1, True, True, plan, -1.0)
    assert len(sizes.seen) > 5
    assert max(sizes.seen) < 9 * 48 * 128
    assert weight not in sizes.seen
    with Sizes() as sizes:  # which would be seen
        reference.genetic_conv2d(x, *codes, 1, 1)
    assert weight in sizes.seen


@pytest.mark.parametrize("genes", [1, 7, 16, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_decode_weight(genes, dtype, triton_device):
    _, *codes = (t.detach() for t in make((1, 70, 5, genes, 2, 1, 1, 1, 1), dtype, triton_device))
    weight = decode_weight(*codes)
    assert weight.is_contiguous()
    assert_close(weight, decode_weight(*(c.double() for c in codes), backend="reference"), dtype)


def test_opcheck(triton_device):
    geometry = (2, 3, 4, 5, 2, 4, 4, 2, 1)
    x, *codes = make(geometry, torch.float32, triton_device)
    bits = pack_spikes(x.detach())
    utilities = ("test_schema", "test_autograd_registration", "test_aot_dispatch_static")
    torch.library.opcheck(
        torch.ops.gee_kernels.genetic_conv2d, (x, *codes, bits, 2, 1, "gene", -1.0), test_utils=utilities
    )
    torch.library.opcheck(torch.ops.gee_kernels.decode_weight, tuple(codes), test_utils=utilities)


def test_float64_is_refused(triton_device):
    tensors = make((1, 2, 2, 2, 3, 3, 3, 1, 1), torch.float64, triton_device)
    with pytest.raises(TypeError, match="genetic_conv2d: x must be float16, bfloat16 or float32"):
        genetic_conv2d(*tensors, plan="gene")


def test_gene_chunks_cover_the_genes_without_much_padding():
    for plan in PLANS:
        for genes in range(1, 600):
            chunks = gene_chunks(genes, plan, torch.bfloat16)
            parts = [chunks[name] for name in ("G0", "G1", "G2")]
            total = chunks["GROUPS"] * sum(parts)
            assert all(p == 0 or (p >= 16 and p & (p - 1) == 0) for p in parts)
            if genes <= 256:
                assert genes <= total < genes + 32, (plan, genes, chunks)
    assert gene_chunks(100, "gene", torch.bfloat16) == {"GROUPS": 1, "G0": 64, "G1": 32, "G2": 16}
