"""lif and batch_norm_lif against a copy of the same bytes and against the libraries people use.

`pytest --benchmark bench/bench_neuron.py` writes bench/results/neuron.json and neuron.png.

All contestants compute the same spikes: tau 2, v_threshold 0.5, hard reset to 0, atan surrogate, gradient
through the reset. snnTorch's equation is that of decay_input=False, the others' that of True
(tests/kernels/test_parity.py states where they coincide). "copy" moves as many bytes as the operator has
to: it clones a tensor of half as many, so it allocates its result, as operators do.
"""

import pytest
import torch
from torch import Tensor

from bench._measure import Table, report
from gee_kernels import batch_norm_lif, lif

STEPS = 4
NEURON = {
    "tau": 2.0,
    "v_threshold": 0.5,
    "v_reset": 0.0,
    "detach_reset": False,
    "surrogate": "atan",
    "alpha": 2.0,
}


@pytest.fixture(scope="module")
def table():
    table = Table("neuron")
    yield table
    table.write()


@pytest.fixture(autouse=True)
def compile_for_this_case():
    """torch.compile starts anew: else it would go over to dynamic shapes, then give up and run eagerly."""
    torch.compiler.reset()


def copy_of(count: float):
    """A copy that reads and writes `count` float32 values altogether."""
    source = torch.zeros(int(count / 2))
    return lambda: source.clone()


def spikingjelly(x: Tensor) -> Tensor:
    from spikingjelly.activation_based import neuron, surrogate

    node = neuron.LIFNode(
        tau=2.0, v_threshold=0.5, surrogate_function=surrogate.ATan(2.0), detach_reset=False, step_mode="m"
    )
    return node(x)


def snntorch(x: Tensor) -> Tensor:
    import snntorch

    cell = snntorch.Leaky(0.5, threshold=0.5, reset_mechanism="zero", reset_delay=False)
    voltage, spikes = torch.zeros_like(x[0]), []
    for step in x:
        spike, voltage = cell(step, voltage)
        spikes.append(spike)
    return torch.stack(spikes)


def norse(x: Tensor) -> Tensor:
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters
    from norse.torch.module.lif_box import LIFBoxCell

    parameters = LIFBoxParameters(tau_mem_inv=torch.tensor(0.5), v_th=torch.tensor(0.5))
    cell = LIFBoxCell(parameters, dt=1.0)
    state, spikes = LIFBoxFeedForwardState(v=torch.zeros_like(x[0])), []
    for step in x:
        spike, state = cell(step, state)
        spikes.append(spike)
    return torch.stack(spikes)


def neurons():
    """Everybody's neurons, x [T, N] to spikes [T, N]."""
    return {
        "gee": lambda x: lif(x, **NEURON),
        "SpikingJelly": spikingjelly,
        "snnTorch": snntorch,
        "Norse": norse,
        "torch.compile of the reference": torch.compile(lambda x: lif(x, **NEURON, backend="reference")),
    }


def check_spikes(found: dict[str, Tensor], other: Tensor) -> None:
    """All spikes are gee's; snnTorch's are `other`, gee's with decay_input=False."""
    for name, spikes in found.items():
        assert torch.equal(spikes, other if name == "snnTorch" else found["gee"]), name


@pytest.mark.parametrize("count", [1 << 18, 1 << 22], ids=["256 K neurons", "4 M neurons"])
@pytest.mark.parametrize("training", [False, True], ids=["forward", "forward + backward"])
def test_lif(benchmark, table, training, count):
    x = torch.randn(STEPS, count, generator=torch.Generator().manual_seed(0)).requires_grad_(training)
    grad = torch.ones_like(x)

    def run(neuron):
        spikes = neuron(x)
        return torch.autograd.grad(spikes, x, grad)[0] if training else spikes

    # Values: forward reads x and writes spikes; backward reads x and the gradient and writes one to x.
    copy = copy_of(STEPS * count * (5 if training else 2))
    candidates = neurons()

    def verify():
        # In the grad mode that is timed, so that torch.compile compiles once.
        found = {name: neuron(x).detach() for name, neuron in candidates.items()}
        check_spikes(found, lif(x.detach(), **NEURON, decay_input=False))

    contestants = {name: lambda neuron=neuron: run(neuron) for name, neuron in candidates.items()}
    rows = table.add(
        "lif forward + backward" if training else "lif forward",
        contestants | {"copy of the same bytes": copy},
        baseline="copy of the same bytes",
        verify=verify,
        rounds=7 if count > 1 << 20 else 11,
        warmup=1,
        steps=STEPS,
        neurons=count,
    )
    report(benchmark, rows, "gee", contestants["gee"])


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("channels", [128, 512])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "forward + backward"])
def test_batch_norm_lif(benchmark, table, training, channels, residual):
    batch, side = 8, {128: 32, 512: 8}[channels]
    shape = STEPS * batch, channels, side, side
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    r = (torch.rand(shape, generator=generator) < 0.1).float().contiguous(memory_format=torch.channels_last)
    r = r if residual else None
    norm = torch.nn.BatchNorm2d(channels, momentum=0.0)
    norm.train(training)
    inputs = [t.requires_grad_(training) for t in (x, r, norm.weight, norm.bias) if t is not None]
    grad = torch.ones_like(x)

    def ours(backend):
        vectors = norm.weight, norm.bias, norm.running_mean, norm.running_var
        options = NEURON | {"time_steps": STEPS, "training": training, "momentum": 0.0, "backend": backend}
        return batch_norm_lif(x, *vectors, r, **options).spikes

    def theirs(neuron):
        y = norm(x) if r is None else norm(x) + r
        return neuron(y.unflatten(0, (STEPS, -1))).flatten(0, 1)

    def run(layer):
        spikes = layer()
        return torch.autograd.grad(spikes, inputs, grad) if training else spikes

    compiled = torch.compile(lambda: ours("reference"))
    candidates = {
        "gee": lambda: ours("fused"),
        "SpikingJelly": lambda: theirs(spikingjelly),
        "snnTorch": lambda: theirs(snntorch),
        "Norse": lambda: theirs(norse),
        "torch.compile of the reference": compiled,
    }

    def verify():
        found = {name: layer().detach() for name, layer in candidates.items()}
        for name, spikes in found.items():
            # The norm rounds differently from library to library, so a potential at the threshold may flip.
            apart = (spikes != found["gee"]).float().mean().item()
            assert name == "snnTorch" or apart < 1e-4, f"{name}: {apart:.1e} of the spikes differ"

    # Values. Inference: x, the residual, spikes. Training: x once more for its statistics; backward passes
    # twice over x, the gradient and the residual, and writes the gradients to x and to the residual.
    count = 8 + 4 * residual if training else 2 + residual
    copy = copy_of(x.numel() * count)
    contestants = {name: lambda layer=layer: run(layer) for name, layer in candidates.items()}
    rows = table.add(
        "batch_norm_lif " + ("forward + backward" if training else "inference"),
        contestants | {"copy of the same bytes": copy},
        baseline="copy of the same bytes",
        verify=verify,
        rounds=9,
        warmup=1,
        shape="x".join(map(str, shape)),
        residual=residual,
    )
    report(benchmark, rows, "gee", contestants["gee"])
