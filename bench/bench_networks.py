"""Whole networks: training step, inference and peak memory against the libraries people use today.

ResNet-19 and CIFARNet at full width, 32x32 images, T = 4, batch 8, g = 100, at a mean firing rate of 5 and
10 % (one common batch-norm bias, chosen by bisection; see `contestants.set_firing_rate`). Before anything is
timed, every peer must give the logits of our own network with the same weights, in float64.
"""

import copy
import json

import pytest
import torch

from bench import _measure, contestants, peak_memory

NETWORKS = ("resnet19", "cifarnet")
RATES = (0.05, 0.10)
BASELINE = "spikingjelly"
THREADS = 2
LOGITS = 1e-9  # relative, in float64


@pytest.fixture(scope="module")
def table():
    result = _measure.Table("networks")
    torch.set_num_threads(THREADS)
    yield result
    result.write()


@pytest.fixture(scope="module")
def memory():
    rows = []
    yield rows
    if rows:
        content = {"environment": _measure.environment(), "rows": rows}
        (_measure.RESULTS / "networks_memory.json").write_text(json.dumps(content, indent=1) + "\n")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("network", NETWORKS)
def test_training_step(table, benchmark, network, rate):
    images, labels = contestants.images_and_labels()
    models = {name: contestants.build(name, network, rate, images) for name in contestants.CONTESTANTS}
    steps = {
        name: lambda model=model: contestants.training_step(model, images, labels)
        for name, model in models.items()
    }
    rows = table.add(
        "training step",
        steps,
        baseline=BASELINE,
        verify=lambda: agree(models, images, training=True),
        rounds=5,
        warmup=1,
        network=network,
        rate=rate,
    )
    _measure.report(benchmark, rows, "gee", steps["gee"])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("network", NETWORKS)
def test_inference(table, benchmark, network, rate):
    images, _ = contestants.images_and_labels()
    models = {name: contestants.build(name, network, rate, images) for name in contestants.CONTESTANTS}
    models = {name: model.eval() for name, model in models.items()}
    models["gee, deployed"] = copy.deepcopy(models["gee"]).deploy()
    calls = {name: lambda model=model: _infer(model, images) for name, model in models.items()}
    rows = table.add(
        "inference",
        calls,
        baseline=BASELINE,
        verify=lambda: agree(models, images, training=False),
        rounds=7,
        warmup=1,
        network=network,
        rate=rate,
    )
    _measure.report(benchmark, rows, "gee, deployed", calls["gee, deployed"])


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("network", NETWORKS)
def test_peak_memory(memory, benchmark, network, mode):
    for name in contestants.CONTESTANTS:
        found = peak_memory.measure(name, network, mode)
        memory.append({"contestant": name, "network": network, "mode": mode, **found})
    benchmark.pedantic(lambda: None)  # there is nothing to time


def _infer(model, images):
    with torch.inference_mode():
        return model(images)


def agree(models, images, *, training: bool) -> None:
    """Raise where contestants with the same kind of weights give different logits."""
    for ours, theirs in (
        ("gee", ("spikingjelly + einsum", "reference, compiled", "gee, deployed")),
        ("dense twin", ("spikingjelly", "snntorch", "norse")),
    ):
        expected = _logits(models[ours], images, training)
        for name in theirs:
            if name in models:
                found = _logits(models[name], images, training)
                error = (found - expected).norm() / expected.norm()
                assert error < LOGITS, f"{name} differs from {ours} by {error:.1e}"


def _logits(model, images, training):
    # In float64, on a copy: a deep spiking network amplifies one rounding that flips one spike, and checking
    # must not move the running statistics.
    model = copy.deepcopy(getattr(model, "_orig_mod", model)).double()
    with torch.no_grad():
        return model.train(training)(images[:2].double())
