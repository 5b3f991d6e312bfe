"""batch_norm_lif: the C++ kernel against the reference, and everything PyTorch expects of an operator."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gee_kernels import _library, batch_norm_lif, lif, pack_spikes
from tests.tolerance import assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

# name: (T, B, C, space, residual, options, layout); everything below runs over these.
SAMPLES = {
    "default": (4, 2, 16, (5, 7), None, {}, "channels-last"),
    "contiguous": (3, 2, 5, (6, 7), "graded", {"surrogate": "atan"}, "contiguous"),
    "one channel": (4, 3, 1, (9, 5), "bits", {}, "contiguous"),
    "one step, odd channels": (1, 3, 37, (3, 3), "bits", {"detach_reset": False}, "channels-last"),
    "soft reset": (4, 2, 24, (4, 4), "graded", {"v_reset": None, "detach_reset": False}, "channels-last"),
    "running statistics": (4, 2, 13, (4, 5), "bits", {"training": False, "tau": 1.7}, "channels-last"),
    "strided": (2, 3, 6, (5, 4), "graded", {"surrogate": "sigmoid", "decay_input": False}, "strided"),
    "no space": (5, 7, 70, (), None, {"v_reset": -0.2}, "contiguous"),
    "one dimension": (2, 3, 9, (11,), None, {"tau": 3.0}, "contiguous"),
    "several tasks": (2, 1, 3, (150, 151), "bits", {}, "channels-last"),
    "many channels": (3, 1, 1100, (2, 3), "graded", {"surrogate": "atan"}, "channels-last"),
    "64 steps": (64, 1, 8, (2, 2), None, {"tau": 4.0}, "channels-last"),
}


def sample(name: str, dtype: torch.dtype = torch.float32):
    """Positional arguments and options of a sample; statistics are far from 0 and 1."""
    steps, batch, channels, space, residual, options, layout = SAMPLES[name]
    generator = torch.Generator().manual_seed(11)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = (randn(steps * batch, channels, *space) * 2 + 3 + randn(channels, *[1] * len(space))).to(dtype)
    if layout == "strided":
        x = x.repeat_interleave(2, 2)[:, :, ::2]
    elif layout == "channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
    vectors = [
        randn(channels).abs() + 0.5,
        randn(channels) * 0.3,
        randn(channels) + 3,
        randn(channels) ** 2 + 2,
    ]
    vectors = [v.to(torch.promote_types(dtype, torch.float32)) for v in vectors]
    r = None
    if residual:
        r = randn(*x.shape).to(dtype) if residual == "graded" else (randn(*x.shape) > 0.7).to(dtype)
        if layout == "strided":
            r = r.movedim(1, -1).contiguous().movedim(-1, 1)
    options = {"time_steps": steps} | options
    if residual == "bits":
        options["residual_bits"] = pack_spikes(r)
    return (x, *vectors, r), options


def run(arguments, options, backend="fused", function=batch_norm_lif):
    """spikes, bits, counts, running statistics and gradients, for a fixed gradient to the spikes."""
    x, weight, bias, *running, residual = arguments
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
    running = [t.clone() for t in running]
    if residual is not None:
        residual = residual.detach().requires_grad_()
    out = function(*inputs, *running, residual, **options, backend=backend)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inputs += [] if residual is None else [residual]
    grads = torch.autograd.grad(out.spikes, inputs, grad.to(DTYPES[-1]).to(x.dtype))
    return [t.detach() for t in (*out, *running, *grads)]


def double(arguments):
    return tuple(None if t is None else t.double() for t in arguments)


@pytest.fixture
def poisoned():
    """Fresh memory holds NaN, so that what a kernel leaves unwritten is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SAMPLES)
def test_equals_the_reference_in_float64(name, dtype, poisoned):
    arguments, options = sample(name, dtype)
    spikes, bits, counts, *rest = run(arguments, options)
    exact = run(double(arguments), options, "reference")
    assert spikes.dtype == dtype
    assert torch.equal(spikes.double(), exact[0])
    assert torch.equal(bits, exact[1])
    assert torch.equal(counts, exact[2])
    assert spikes.movedim(1, -1).is_contiguous()
    assert 0 < spikes.double().mean() < 1, "a sample without both values tests nothing"
    for i, (out, ref) in enumerate(zip(rest, exact[3:], strict=True)):
        assert_close(out, ref, dtype if i in (2, 5) else out.dtype, 2)  # vectors are float32 at least


@pytest.mark.parametrize("training", [True, False])
def test_is_batch_norm_then_lif(training):
    (x, weight, bias, *running, residual), options = sample("contiguous", torch.float64)

    def parts(x, weight, bias, mean, var, residual, *, time_steps, training, backend, surrogate):
        y = torch.nn.functional.batch_norm(x, mean, var, weight, bias, training, 0.1, 1e-5) + residual
        spikes = lif(y.unflatten(0, (time_steps, -1)), surrogate=surrogate).flatten(0, 1)
        return type("Out", (tuple,), {"spikes": spikes})((spikes,))

    options["training"] = training
    arguments = (x, weight, bias, *running, residual)
    spikes, _, _, *rest = run(arguments, options)
    expected, *others = run(arguments, options, function=parts)
    assert torch.equal(spikes, expected)
    for out, ref in zip(rest, others, strict=True):
        assert_close(out, ref, torch.float64)


@pytest.mark.parametrize("surrogate", ["piecewise_quadratic", "atan", "sigmoid"])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, -0.25, None])
def test_every_neuron(v_reset, decay_input, detach_reset, surrogate):
    arguments, options = sample("soft reset")
    options |= {"v_reset": v_reset, "decay_input": decay_input, "detach_reset": detach_reset}
    options |= {"surrogate": surrogate, "tau": 1.5, "v_threshold": 0.4, "alpha": 1.5}
    out, ref = run(arguments, options), run(double(arguments), options, "reference")
    assert torch.equal(out[0].double(), ref[0])
    for grad, expected in zip(out[3:], ref[3:], strict=True):
        assert_close(grad, expected, torch.float32, 2)


def test_statistics_keep_their_digits_far_from_zero():
    x = (
        torch.randn(8, 3, 40, 41, generator=torch.Generator().manual_seed(0))
        + torch.tensor([1e4, -3e3, 0.0])[:, None, None]
    )
    ones, zeros = torch.ones(3), torch.zeros(3)
    mean, var = torch.ops.gee_kernels.batch_norm_lif(
        x, ones, zeros, None, None, None, None, 4, 1e-5, 2.0, 0.5, 0.0, True, True, "atan", 2.0
    )[3:]
    rows = x.double().movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(mean.double(), rows.mean(0), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(var.double(), rows.var(0, correction=0), rtol=1e-6, atol=0)


def test_residual_bits_stand_for_the_residual():
    arguments, options = sample("running statistics")
    with_bits = run(arguments, options)
    del options["residual_bits"]
    assert all(torch.equal(a, b) for a, b in zip(with_bits, run(arguments, options), strict=True))


def test_bits_are_kept_in_place_of_the_residual():
    (*vectors, residual), options = sample("one step, odd channels")
    vectors[0].requires_grad_()
    residual.requires_grad_()
    out = batch_norm_lif(*vectors, residual, **options)
    saved = [t for t in out.spikes.grad_fn.saved_tensors if t is not None]
    assert not any(t.data_ptr() == residual.data_ptr() for t in saved)
    assert any(t.data_ptr() == options["residual_bits"].data_ptr() for t in saved)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in ("several tasks", "many channels")])
def test_opcheck(name):
    (x, weight, bias, mean, var, residual), options = sample(name)
    steps, bits = options.pop("time_steps"), options.pop("residual_bits", None)
    training = options.pop("training", True)
    neuron = {"tau": 2.0, "v_threshold": 0.5, "v_reset": 0.0, "decay_input": True, "detach_reset": True}
    tail = (
        bits,
        steps,
        1e-5,
        *(neuron | {"surrogate": "piecewise_quadratic", "alpha": 2.0} | options).values(),
    )
    op = torch.ops.gee_kernels
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
    used = (None, None) if training else (mean, var)
    r = None if residual is None else residual.detach().requires_grad_()
    torch.library.opcheck(op.batch_norm_lif.default, (*inputs, *used, r, *tail))
    torch.library.opcheck(
        op.batch_norm_lif_backward.default,
        (torch.ones_like(x), x, weight, bias, mean, var, residual, *tail, training, residual is not None),
    )


@pytest.mark.parametrize("name", ["contiguous", "running statistics"])
def test_compiles_whole(name):
    arguments, options = sample(name)
    torch.compiler.reset()
    compiled = torch.compile(batch_norm_lif, fullgraph=True, backend="aot_eager")
    for out, ref in zip(run(arguments, options, function=compiled), run(arguments, options), strict=True):
        assert torch.equal(out, ref)


def test_inductor_compiles_whole():
    arguments, options = sample("default")
    torch.compiler.reset()

    def layer(x, *others, **options):
        return batch_norm_lif(x * 2, *others, **options)

    compiled = torch.compile(layer, fullgraph=True)
    for out, ref in zip(
        run(arguments, options, function=compiled), run(arguments, options, function=layer), strict=True
    ):
        assert_close(out, ref, torch.float32)


def test_meta_tensors():
    x = torch.empty(8, 20, 3, 5, device="meta", requires_grad=True)
    vectors = [torch.empty(20, device="meta") for _ in range(4)]
    out = batch_norm_lif(x, *vectors, x, time_steps=4)
    assert [t.shape for t in out] == [(8, 20, 3, 5), (8, 3, 5, 3), (8, 20)]
    out.spikes.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (4, 6, 0, 3), (4, 0, 3, 3)])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_empty(shape, backend):
    x = torch.zeros(shape, requires_grad=True)
    vectors = [torch.ones(shape[1], requires_grad=i < 2) for i in range(4)]
    out = batch_norm_lif(x, *vectors, x, time_steps=2, backend=backend)
    assert out.spikes.shape == shape
    assert out.bits.shape == (shape[0], *shape[2:], (shape[1] + 7) // 8)
    assert out.counts.shape == shape[:2]
    assert not out.counts.any()
    out.spikes.sum().backward()
    assert x.grad.shape == shape
    assert all((v == 1).all() for v in vectors)


def test_autocast():
    (x, weight, bias, mean, var, residual), options = sample("contiguous")
    with torch.autocast("cpu", torch.bfloat16):
        out = batch_norm_lif(x, weight, bias, mean.clone(), var.clone(), residual, **options)
    ref = batch_norm_lif(x.bfloat16(), weight, bias, mean, var, residual.bfloat16(), **options)
    assert out.spikes.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(out, ref, strict=True))
    assert mean.dtype == torch.float32


@pytest.mark.parametrize("name", ["several tasks", "contiguous", "many channels"])
def test_threads_and_repeats_change_nothing(name):
    arguments, options = sample(name)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 1):
            torch.set_num_threads(threads)
            results.append(run(arguments, options))
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(4) as pool:
        results += list(pool.map(lambda _: run(arguments, options), range(4)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["soft reset", "strided", "one step, odd channels"])
def test_instruction_sets_round_alike(name, dtype):
    arguments, options = sample(name, dtype)
    try:
        results = []
        for level in ("baseline", "avx2", "avx512"):
            _library.limit_isa(level)
            results.append(run(arguments, options))
    finally:
        _library.limit_isa("avx512")
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4)}, ValueError, r"x must be \[T\*B, C, H, W\], got \[4\]"),
        (
            {"x": torch.zeros(4, 3, 2, 2, dtype=torch.uint8)},
            TypeError,
            "x must be floating point, got torch.uint8",
        ),
        ({"time_steps": 3}, ValueError, r"T = 3 time_steps, got \[4, 3, 2, 2\]"),
        ({"time_steps": 0}, ValueError, "T = 0 time_steps"),
        ({"weight": torch.ones(2)}, ValueError, r"weight must be \[3\] for x \[4, 3, 2, 2\], got \[2\]"),
        ({"running_var": torch.ones(3, 1)}, ValueError, r"running_var must be \[3\] .* got \[3, 1\]"),
        (
            {"residual": torch.zeros(4, 3, 2)},
            ValueError,
            r"residual must be \[4, 3, 2, 2\] .* got \[4, 3, 2\]",
        ),
        (
            {"residual_bits": torch.zeros(4, 2, 2, 1, dtype=torch.uint8)},
            ValueError,
            "residual_bits must be .* beside a residual, got .* alone",
        ),
        (
            {"residual": torch.zeros(4, 3, 2, 2), "residual_bits": torch.zeros(4, 2, 2, 1)},
            ValueError,
            r"residual_bits must be uint8 \[4, 2, 2, 1\] .* got torch.float32 \[4, 2, 2, 1\]",
        ),
        ({"x": torch.zeros(1, 3), "time_steps": 1}, ValueError, "more than one value per channel"),
        ({"tau": 0.0}, ValueError, "tau must be at least 1, got 0.0"),
        ({"backend": "triton"}, ValueError, "backend must be one of fused, reference, got 'triton'"),
    ],
)
def test_errors_name_the_parameter(change, error, message):
    vectors = {name: torch.ones(3) for name in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(error, match=message):
        batch_norm_lif(**{"x": torch.zeros(4, 3, 2, 2), "time_steps": 2} | vectors | change)
