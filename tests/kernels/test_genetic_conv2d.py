"""Every plan of `genetic_conv2d` against the reference, and what an operator promises beyond its values."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gee_kernels import _library, genetic_conv2d, pack_spikes
from gee_kernels.genetic_conv2d import reference
from tests.tolerance import RELATIVE, assert_close

PLANS = ("materialize", "reconstruct", "gene", "event", "auto")
FUSED = ("reconstruct", "gene", "event")
NAMES = ("x", "pre", "interaction", "post")

# images, C_in, C_out, g, K, stride, padding, H, W
SHAPES = {
    "plain": (2, 16, 24, 7, 3, 1, 1, 8, 8),
    "one of everything": (1, 1, 1, 1, 3, 1, 1, 1, 1),
    "stride 2, odd": (3, 5, 9, 7, 3, 2, 1, 7, 5),
    "wider than a panel, g 100": (1, 70, 130, 100, 3, 1, 1, 5, 4),
    "1x1": (2, 33, 20, 7, 1, 1, 0, 4, 3),
    "1x1, stride 2": (2, 20, 65, 7, 1, 2, 0, 7, 6),
    "no padding": (2, 9, 17, 3, 3, 1, 0, 5, 6),
    "stride beyond the kernel": (2, 3, 8, 2, 1, 3, 1, 8, 7),
    "empty batch": (0, 5, 6, 3, 3, 1, 1, 4, 4),
    "5x5 over 3x2": (1, 4, 4, 3, 5, 1, 2, 3, 2),
}


def operands(shape, dtype=torch.float32, density=1.0, binary=False, seed=0):
    """x, pre, interaction, post, stride, padding."""
    images, c_in, c_out, genes, k, stride, padding, height, width = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    x = normal(images, c_in, height, width)
    mask = torch.rand(x.shape, generator=generator) < density
    x = mask.to(dtype) if binary else x * mask
    codes = normal(c_in, genes, k, k), normal(genes, genes), normal(c_out, genes, k, k)
    return x, *codes, stride, padding


def run(function, tensors, *args, **kwargs):
    """y and the gradients of the four operands under a fixed random cotangent."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves, *args, **kwargs)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad(y, leaves, cotangent.to(y.dtype))]


def judge(out, tensors, stride, padding, dtype):
    exact = run(reference.genetic_conv2d, [t.double() for t in tensors], stride, padding)
    cotangent = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if dtype != torch.float64:  # the cotangent was rounded to y's dtype
        leaves = [t.double().requires_grad_() for t in tensors]
        y = reference.genetic_conv2d(*leaves, stride, padding)
        exact = [y, *torch.autograd.grad(y, leaves, cotangent.to(dtype).double())]
    for name, a, b in zip(("y", *NAMES), out, exact, strict=True):
        assert a.dtype == dtype, name
        assert_close(a, b, dtype)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients(plan, name, dtype):
    *tensors, stride, padding = operands(SHAPES[name], dtype, density=0.4)
    judge(run(genetic_conv2d, tensors, stride, padding, plan), tensors, stride, padding, dtype)


@pytest.mark.parametrize("plan", FUSED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(plan, dtype):
    *tensors, stride, padding = operands(SHAPES["stride 2, odd"], dtype, density=0.4)
    judge(run(genetic_conv2d, tensors, stride, padding, plan), tensors, stride, padding, dtype)


@pytest.mark.parametrize("plan", [*FUSED, "auto"])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_bits_stand_for_binary_input(plan, density):
    *tensors, stride, padding = operands((3, 70, 33, 9, 3, 2, 1, 9, 8), density=density, binary=True)
    bits = pack_spikes(tensors[0])
    out = run(genetic_conv2d, tensors, stride, padding, plan, bits=bits)
    judge(out, tensors, stride, padding, torch.float32)


@pytest.mark.parametrize("plan", FUSED)
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(plan, level):
    *tensors, stride, padding = operands(SHAPES["wider than a panel, g 100"], density=0.3)
    _library.limit_isa(level)
    try:
        out = run(genetic_conv2d, tensors, stride, padding, plan)
    finally:
        _library.limit_isa("avx512")
    judge(out, tensors, stride, padding, torch.float32)


@pytest.mark.parametrize("plan", PLANS)
def test_any_strides(plan):
    *tensors, stride, padding = operands((4, 16, 24, 7, 3, 1, 1, 8, 6), density=0.4)
    expected = run(genetic_conv2d, tensors, stride, padding, plan)
    x, pre, interaction, post = tensors
    layouts = {
        "channels-last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "every second": x.repeat_interleave(2, 0)[::2],
        "broadcast": x[:, :, :1, :1].expand(4, 16, 8, 6),
    }
    for other in layouts.values():
        strided = [
            other,
            pre.transpose(0, 1).contiguous().transpose(0, 1),
            interaction.t().contiguous().t(),
            post,
        ]
        out = run(genetic_conv2d, strided, stride, padding, plan)
        if not torch.equal(other, x):
            expected = run(
                genetic_conv2d, [other.contiguous(), pre, interaction, post], stride, padding, plan
            )
        for a, b in zip(out, expected, strict=True):
            assert_close(a, b, torch.float32)
    assert out[0].is_contiguous(memory_format=torch.channels_last) or plan == "materialize"


@pytest.mark.parametrize("plan", FUSED)
def test_number_of_threads_changes_no_bit(plan):
    *tensors, stride, padding = operands((5, 70, 90, 13, 3, 2, 1, 9, 8), density=0.4)
    threads, outs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outs.append(run(genetic_conv2d, tensors, stride, padding, plan))
    finally:
        torch.set_num_threads(threads)
    for other in outs[1:]:
        for name, a, b in zip(("y", "x"), outs[0][:2], other[:2], strict=True):
            assert torch.equal(a, b), name
        for name, a, b in zip(NAMES[1:], outs[0][2:], other[2:], strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("plan", FUSED)
def test_gradcheck(plan):
    *tensors, stride, padding = operands((1, 2, 3, 2, 3, 2, 1, 4, 3), torch.float64)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: genetic_conv2d(*t, stride, padding, plan), leaves)


@pytest.mark.parametrize("plan", FUSED)
@pytest.mark.parametrize("wanted", NAMES)
def test_one_gradient_alone(plan, wanted):
    *tensors, stride, padding = operands(SHAPES["plain"], density=0.4)
    full = run(genetic_conv2d, tensors, stride, padding, plan)
    leaves = [t.clone().requires_grad_(name == wanted) for name, t in zip(NAMES, tensors, strict=True)]
    y = genetic_conv2d(*leaves, stride, padding, plan)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.backward(cotangent.to(y.dtype))
    index = NAMES.index(wanted)
    assert torch.equal(leaves[index].grad, full[1 + index])


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any torch operation, forward or backward, returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def largest_tensor(plan: str) -> int:
    *tensors, stride, padding = operands((1, 96, 80, 8, 3, 1, 1, 4, 4), density=0.4)
    with LargestTensor() as mode:
        run(genetic_conv2d, tensors, stride, padding, plan)
    return mode.elements


def test_the_weight_never_exists():
    weight = 96 * 80 * 9
    assert largest_tensor("materialize") == weight  # the instrument sees it where it is
    for plan in (*FUSED, "auto"):
        assert largest_tensor(plan) < weight // 4, plan


def test_backward_keeps_bits_instead_of_x():
    *tensors, stride, padding = operands(SHAPES["plain"], density=0.4, binary=True)
    bits, kept = pack_spikes(tensors[0]), []
    leaves = [t.requires_grad_() for t in tensors]
    for given in (None, bits):
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t) or t, lambda t: t):
            genetic_conv2d(*leaves, stride, padding, bits=given)
        kept.append({t.data_ptr() for t in saved})
    assert leaves[0].data_ptr() in kept[0]
    assert leaves[0].data_ptr() not in kept[1]
    assert bits.data_ptr() in kept[1]


def samples():
    for plan in FUSED:
        for name in ("plain", "stride 2, odd", "empty batch"):
            *tensors, stride, padding = operands(SHAPES[name], density=0.4, binary=True)
            for bits in (None, pack_spikes(tensors[0])):
                yield (*(t.requires_grad_() for t in tensors), bits, stride, padding, plan, -1.0)


@pytest.mark.parametrize("args", list(samples()))
def test_opcheck(args):
    torch.library.opcheck(torch.ops.gee_kernels.genetic_conv2d.default, args)


@pytest.mark.parametrize("plan", FUSED)
def test_opcheck_backward(plan):
    x, *codes, stride, padding = operands(SHAPES["stride 2, odd"], density=0.4, binary=True)
    grad = torch.ones(3, 9, 4, 3)
    dense = "reconstruct" if plan == "event" else plan
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(
        torch.ops.gee_kernels.genetic_conv2d_grad_x.default,
        (grad, *codes, 7, 5, stride, padding, dense),
        test_utils=checks,
    )
    for given, bits, wanted in ((x, None, (True, False)), (None, pack_spikes(x), (False, True))):
        torch.library.opcheck(
            torch.ops.gee_kernels.genetic_conv2d_grad_codes.default,
            (grad, given, bits, *codes, stride, padding, *wanted, plan, -1.0),
            test_utils=checks,
        )


@pytest.mark.parametrize("plan", ["reconstruct", "auto"])
def test_compile_full_graph_any_batch(plan):
    torch._dynamo.reset()
    compiles = []

    def backend(graph, inputs):
        compiles.append(graph)
        return graph.forward

    def function(*args):
        return genetic_conv2d(*args, plan=plan)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    for images in (2, 3, 8, 5):
        *tensors, _, _ = operands((images, 16, 24, 7, 3, 1, 1, 8, 8), density=0.4)
        for a, b in zip(run(compiled, tensors), run(function, tensors), strict=True):
            assert_close(a, b, torch.float32)
    assert len(compiles) == 1


def test_compile_with_inductor():
    torch._dynamo.reset()
    *tensors, stride, padding = operands(SHAPES["plain"], density=0.4)
    compiled = torch.compile(genetic_conv2d, fullgraph=True)
    for a, b in zip(
        run(compiled, tensors, stride, padding), run(genetic_conv2d, tensors, stride, padding), strict=True
    ):
        assert_close(a, b, torch.float32)


@pytest.mark.parametrize("plan", PLANS)
def test_autocast(plan):
    *tensors, stride, padding = operands(SHAPES["plain"], density=0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(genetic_conv2d, tensors, stride, padding, plan)
    assert out[0].dtype == torch.bfloat16
    for name, gradient in zip(NAMES, out[1:], strict=True):
        assert gradient.dtype == torch.float32, name
    exact = run(reference.genetic_conv2d, [t.bfloat16().double() for t in tensors], stride, padding)
    for a, b in zip(out, exact, strict=True):
        assert_close(a, b, torch.bfloat16)


def test_meta_tensors():
    *tensors, stride, padding = operands(SHAPES["stride 2, odd"])
    y = genetic_conv2d(*(t.to("meta") for t in tensors), stride, padding)
    assert y.device.type == "meta"
    assert y.shape == (3, 9, 4, 3)
    assert y.stride() == genetic_conv2d(*tensors, stride, padding).stride()


def test_reference_backend_is_the_reference():
    *tensors, stride, padding = operands(SHAPES["plain"])
    y = genetic_conv2d(*tensors, stride, padding, backend="reference")
    assert torch.equal(y, reference.genetic_conv2d(*tensors, stride, padding))


def test_several_python_threads():
    from concurrent.futures import ThreadPoolExecutor

    jobs = [operands((2, 16, 24, 7, 3, 1, 1, 8, 8), density=0.4, seed=seed) for seed in range(8)]
    for plan in FUSED:
        expected = [genetic_conv2d(*job, plan) for job in jobs]
        with ThreadPoolExecutor(4) as pool:
            for out, one in zip(
                pool.map(lambda job, p=plan: genetic_conv2d(*job, p), jobs), expected, strict=True
            ):
                assert torch.equal(out, one)


def broken(**changes):
    x, pre, interaction, post, stride, padding = operands(SHAPES["plain"])
    arguments = {
        "x": x,
        "pre": pre,
        "interaction": interaction,
        "post": post,
        "stride": stride,
        "padding": padding,
    }
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(2, 15, 8, 8)}, r"x must be \[N, 16, H, W\].*got \[2, 15, 8, 8\]"),
        ({"x": torch.ones(2, 16, 8)}, r"x must be \[N, 16, H, W\]"),
        ({"x": torch.ones(2, 16, 8, 8).double()}, "one dtype, got torch.float64 and torch.float32"),
        ({"pre": torch.ones(16, 7, 9)}, r"pre must be \[C_in, g, K, K\], got \[16, 7, 9\]"),
        ({"interaction": torch.ones(7, 6)}, r"interaction must be \[7, 7\], got \[7, 6\]"),
        ({"post": torch.ones(24, 6, 3, 3)}, r"post must be \[C_out, 7, 3, 3\], got \[24, 6, 3, 3\]"),
        ({"post": torch.ones(24, 7, 3, 3).double()}, "post must be torch.float32"),
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
        ({"x": torch.ones(2, 16, 2, 8), "padding": 0}, "at least 3 high and wide"),
        (
            {"plan": "fast"},
            "plan must be one of auto, materialize, reconstruct, gene, event on cpu, got 'fast'",
        ),
        ({"backend": "cuda"}, "backend must be one of fused, reference"),
        (
            {"bits": torch.zeros(2, 8, 8, 1, dtype=torch.uint8)},
            r"bits must be pack_spikes\(x\), uint8 \[2, 8, 8, 2\]",
        ),
    ],
)
def test_errors_name_the_parameter(changes, message):
    with pytest.raises(ValueError, match=message):
        genetic_conv2d(**broken(**changes))


def test_tolerance_table_covers_the_types_tested():
    assert set(RELATIVE) == {torch.float64, torch.float32, torch.float16, torch.bfloat16}
