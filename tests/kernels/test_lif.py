"""lif: the C++ kernel against the reference, and everything PyTorch expects of an operator."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gee_kernels import _library, lif
from tests.tolerance import assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DEFAULT = {
    "tau": 2.0,
    "v_threshold": 0.5,
    "v_reset": 0.0,
    "decay_input": True,
    "detach_reset": True,
    "surrogate": "piecewise_quadratic",
    "alpha": 2.0,
}

# name: (shape, neuron, start voltage?, layout); everything below runs over these.
SAMPLES = {
    "default": ((4, 3, 5, 7), {}, False, "contiguous"),
    "one step": ((1, 33), {}, False, "contiguous"),
    "64 steps": ((64, 3, 7), {"tau": 3.0, "v_reset": -0.1}, True, "contiguous"),
    "soft reset, tau no power of two": ((5, 2, 17), {"tau": 1.7, "v_reset": None}, True, "contiguous"),
    "nothing but time": ((6,), {}, True, "contiguous"),
    "several rows": ((3, 2, 1031), {"surrogate": "atan", "detach_reset": False}, True, "contiguous"),
    "channels-last": ((4, 2, 5, 3, 3), {"surrogate": "sigmoid", "decay_input": False}, True, "channels-last"),
    "every second": (
        (4, 3, 10),
        {"v_reset": None, "detach_reset": False, "surrogate": "sigmoid"},
        True,
        "strided",
    ),
    "time innermost": (
        (5, 3, 4),
        {"v_reset": 0.2, "decay_input": False, "detach_reset": False},
        True,
        "time last",
    ),
    "the same input at every step": ((4, 3, 8), {"surrogate": "atan", "alpha": 5.0}, False, "expanded"),
    "soft, atan": (
        (3, 9),
        {"v_reset": None, "detach_reset": False, "surrogate": "atan"},
        False,
        "contiguous",
    ),
    "empty": ((4, 0, 3), {}, True, "contiguous"),
}


def sample(name: str, dtype: torch.dtype = torch.float32):
    """x, voltage or None, neuron parameters of a sample."""
    shape, neuron, with_voltage, layout = SAMPLES[name]
    generator = torch.Generator().manual_seed(7)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3).to(dtype)
    if layout == "channels-last":
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    elif layout == "strided":
        x = x.repeat_interleave(2, -1)[..., ::2]
    elif layout == "time last":
        x = x.movedim(0, -1).contiguous().movedim(-1, 0)
    elif layout == "expanded":
        x = x[:1].expand(shape)
    assert layout == "contiguous" or not x.is_contiguous()
    voltage = torch.rand(shape[1:], generator=generator, dtype=torch.float64) * 0.4 if with_voltage else None
    if voltage is not None:
        voltage = voltage.to(torch.promote_types(dtype, torch.float32))
    return x, voltage, DEFAULT | neuron


def run(x, voltage, neuron, backend="fused", function=lif):
    """spikes, last voltage, gradients to x and to the start voltage, for fixed gradients to the results."""
    x = x.detach().requires_grad_()
    voltage = None if voltage is None else voltage.detach().requires_grad_()
    spikes, last = function(x, voltage=voltage, return_voltage=True, backend=backend, **neuron)
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(r.shape, generator=generator, dtype=torch.float64) for r in (spikes, last)]
    inputs = [x] if voltage is None else [x, voltage]
    found = torch.autograd.grad(
        [spikes, last],
        inputs,
        [g.to(x.dtype).to(r.dtype) for g, r in zip(grads, (spikes, last), strict=True)],
    )
    return [spikes.detach(), last.detach(), *found]


@pytest.fixture
def poisoned():
    """Fresh memory holds NaN, so that what a kernel leaves unwritten is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SAMPLES)
def test_equals_the_reference(name, dtype, poisoned):
    x, voltage, neuron = sample(name, dtype)
    spikes, last, *grads = run(x, voltage, neuron)
    same = run(x, voltage, neuron, "reference")
    assert torch.equal(spikes, same[0])
    assert torch.equal(last, same[1])
    assert spikes.dtype == x.dtype
    assert ((spikes == 0) | (spikes == 1)).all()
    exact = run(x.double(), None if voltage is None else voltage.double(), neuron, "reference")
    for grad, ref in zip(grads, exact[2:], strict=True):
        assert_close(grad, ref, dtype)
    for grad, ref in zip(grads, same[2:], strict=True):
        assert grad.dtype == ref.dtype
    if x.numel():
        assert 0 < spikes.double().mean() < 1, "a sample without both values tests nothing"


@pytest.mark.parametrize("surrogate", ["piecewise_quadratic", "atan", "sigmoid"])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, -0.25, None])
def test_every_neuron(v_reset, decay_input, detach_reset, surrogate):
    x, voltage, _ = sample("several rows")
    neuron = DEFAULT | {"tau": 1.5, "v_threshold": 0.4, "alpha": 1.5, "surrogate": surrogate}
    neuron |= {"v_reset": v_reset, "decay_input": decay_input, "detach_reset": detach_reset}
    out, ref = run(x, voltage, neuron), run(x, voltage, neuron, "reference")
    assert torch.equal(out[0], ref[0])
    assert torch.equal(out[1], ref[1])
    for grad, expected in zip(out[2:], ref[2:], strict=True):
        assert_close(grad, expected, torch.float32)


def test_sigmoid_far_from_the_threshold():
    x = torch.tensor([[-1e30, -300.0, -50.0, 0.5, 50.0, 300.0, 1e30]])
    neuron = DEFAULT | {"surrogate": "sigmoid", "alpha": 4.0, "tau": 1.0}
    out, ref = run(x, None, neuron)[2], run(x.double(), None, neuron, "reference")[2]
    assert out.isfinite().all()
    torch.testing.assert_close(out.double(), ref, rtol=1e-5, atol=1e-36)


def test_not_a_number_never_fires():
    x = torch.tensor([[1.0, float("nan")], [1.0, 1.0]])
    assert lif(x).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name):
    x, voltage, neuron = sample(name)
    args = tuple(neuron.values())
    op = torch.ops.gee_kernels
    grad_x = x.detach().requires_grad_(x.numel() > 0)
    grad_voltage = None if voltage is None else voltage.detach().requires_grad_()
    torch.library.opcheck(op.lif.default, (grad_x, grad_voltage, *args, True))
    spikes, last = op.lif(x, voltage, *args, True)
    torch.library.opcheck(
        op.lif_backward.default, (torch.ones_like(spikes), torch.ones_like(last), x, voltage, *args)
    )
    torch.library.opcheck(op.lif_backward.default, (None, torch.ones_like(last), x, None, *args))


@pytest.mark.parametrize("name", ["default", "channels-last", "every second"])
def test_compiles_whole(name):
    x, voltage, neuron = sample(name)
    torch.compiler.reset()
    whole = torch.compile(
        lambda x, v: lif(x * 1, voltage=v, return_voltage=True, **neuron), fullgraph=True, backend="aot_eager"
    )
    for out, ref in zip(
        whole(x, voltage), lif(x, voltage=voltage, return_voltage=True, **neuron), strict=True
    ):
        assert torch.equal(out, ref)


def test_meta_tensors():
    x = torch.empty(4, 2, 3, device="meta", requires_grad=True)
    spikes, last = lif(x, return_voltage=True)
    assert spikes.shape == (4, 2, 3)
    assert last.shape == (2, 3)
    spikes.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.1, None])
def test_gradcheck_below_threshold(v_reset, decay_input):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    voltage = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def last(x, voltage):
        options = {"v_threshold": 1e3, "v_reset": v_reset, "decay_input": decay_input, "tau": 1.5}
        return lif(x, voltage=voltage, return_voltage=True, **options)[1]

    assert torch.autograd.gradcheck(last, (x, voltage))


@pytest.mark.parametrize("name", ["64 steps", "channels-last", "several rows"])
def test_streaming_equals_one_call(name):
    x, voltage, neuron = sample(name, torch.float64)
    whole = run(x, voltage, neuron)

    def pieces(x, *, voltage, **options):
        cut = len(x) // 2
        first, between = lif(x[:cut], voltage=voltage, **options)
        second, last = lif(x[cut:], voltage=between, **options)
        return torch.cat([first, second]), last

    for out, ref in zip(run(x, voltage, neuron, function=pieces), whole, strict=True):
        assert_close(out, ref, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    x, _, neuron = sample("default")
    with torch.autocast("cpu", dtype):
        spikes, last = lif(x, return_voltage=True, **neuron)
        wide = lif(x.double(), **neuron)
    assert spikes.dtype == dtype
    assert last.dtype == torch.float32
    assert wide.dtype == torch.float64
    assert torch.equal(spikes, lif(x.to(dtype), **neuron))


@pytest.mark.parametrize("name", ["several rows", "channels-last", "every second"])
def test_threads_and_repeats_change_nothing(name):
    x, voltage, neuron = sample(name)
    x = x.repeat_interleave(40, 1)
    voltage = voltage.repeat_interleave(40, 0)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5, 1):
            torch.set_num_threads(threads)
            results.append(run(x, voltage, neuron))
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(4) as pool:
        results += list(pool.map(lambda _: run(x, voltage, neuron), range(4)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("surrogate", ["piecewise_quadratic", "atan", "sigmoid"])
def test_instruction_sets_round_alike(surrogate, dtype):
    x, voltage, neuron = sample("several rows", dtype)
    neuron = neuron | {"surrogate": surrogate, "tau": 1.7}
    try:
        results = []
        for level in ("baseline", "avx2", "avx512"):
            _library.limit_isa(level)
            results.append(run(x, voltage, neuron))
    finally:
        _library.limit_isa("avx512")
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_voltage_costs_nothing_unless_wanted():
    x, _, neuron = sample("default")
    spikes, last = torch.ops.gee_kernels.lif(x, None, *neuron.values(), False)
    assert last.numel() == 0
    assert torch.equal(spikes, lif(x, **neuron))


def test_results_keep_the_layout_of_the_input():
    x, voltage, neuron = sample("channels-last")
    spikes, last = lif(x, voltage=voltage, return_voltage=True, **neuron)
    assert spikes.stride() == x.stride()
    assert last.stride() == x.stride()[1:]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(0, 3)}, ValueError, r"x must be \[T, ...\] with T >= 1, got \[0, 3\]"),
        ({"x": torch.tensor(1.0)}, ValueError, r"x must be \[T, ...\]"),
        (
            {"x": torch.zeros(2, 3, dtype=torch.int64)},
            TypeError,
            "x must be floating point, got torch.int64",
        ),
        ({"voltage": torch.zeros(4)}, ValueError, r"voltage must be \[3\] for x \[2, 3\], got \[4\]"),
        ({"voltage": torch.zeros(3, dtype=torch.bool)}, TypeError, "voltage must be floating point"),
        ({"tau": 0.5}, ValueError, "tau must be at least 1, got 0.5"),
        ({"tau": float("nan")}, ValueError, "tau must be at least 1, got nan"),
        ({"alpha": 0.0}, ValueError, "alpha must be positive, got 0.0"),
        ({"surrogate": "step"}, ValueError, "surrogate must be one of piecewise_quadratic, atan, sigmoid"),
        ({"backend": "cuda"}, ValueError, "backend must be one of fused, reference, got 'cuda'"),
    ],
)
def test_errors_name_the_parameter(change, error, message):
    with pytest.raises(error, match=message):
        lif(**{"x": torch.zeros(2, 3)} | change)
