"""torchrun with two gloo processes on the CPU: the same training as one process with the joint batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gee import synchronised
from gee.training.logs import read_metrics
from gee_kernels import batch_norm_lif
from tests.gee import distributed_training
from tests.tolerance import assert_close

ROOT = Path(__file__).parents[2]


def torchrun(*arguments):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "result.json"
    torchrun("-m", "tests.gee.distributed_training", str(path))
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def one_process():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield distributed_training.train(sync_batch_norm=False)
    torch.set_num_threads(threads)


def test_two_processes_with_synchronised_statistics_equal_one(two_processes, one_process):
    two = two_processes["True"]
    assert (two["world"], two["local_batch"], two["steps"]) == (2, 16, 6)
    assert (one_process["world"], one_process["local_batch"], one_process["steps"]) == (1, 32, 6)
    for key in ("losses", "accuracies", "gradient_norms", "test_losses", "weights"):
        assert two[key] == pytest.approx(one_process[key], rel=1e-7, abs=1e-9), key
    assert two["confusion"] == one_process["confusion"]
    assert one_process["losses"][1] < one_process["losses"][0]


def test_statistics_of_each_process_alone_are_another_training(two_processes, one_process):
    """So the equality above is the synchronisation's doing."""
    assert two_processes["False"]["losses"] != pytest.approx(one_process["losses"], rel=1e-4)
    assert two_processes["False"]["losses"] == pytest.approx(one_process["losses"], rel=0.2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_one_process_synchronised_is_the_fused_operator(training, with_residual):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, residual, weight, bias = draw(6, 5, 3, 4), draw(6, 5, 3, 4), draw(5) + 1, draw(5)
    gradient = draw(6, 5, 3, 4)

    def run(operator):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias, residual)]
        means, variances = torch.full((5,), 0.1).double(), torch.full((5,), 1.5).double()
        residual_in = inputs[3] if with_residual else None
        options = {"time_steps": 3, "training": training, "momentum": 0.1, "eps": 1e-5, "backend": "fused"}
        out = operator(*inputs[:3], means, variances, residual_in, **options)
        out.spikes.backward(gradient)
        gradients = [tensor.grad for tensor in inputs if tensor.grad is not None]
        return out, [means, variances, *gradients]

    (ours, our_tensors), (fused, fused_tensors) = run(synchronised.batch_norm_lif), run(batch_norm_lif)
    assert torch.equal(ours.spikes, fused.spikes)
    assert 0 < ours.spikes.mean() < 1
    assert torch.equal(ours.bits, fused.bits)
    assert torch.equal(ours.counts, fused.counts)
    for one, other in zip(our_tensors, fused_tensors, strict=True):
        assert_close(one, other, torch.float64, factor=10)


def test_the_command_line_under_torchrun(tmp_path):
    flags = ["--width", "0.5", "--genes", "4", "--time-steps", "2", "--batch-size", "128", "--epochs", "1"]
    run_dir = tmp_path / "run"
    shown = torchrun(
        "-m", "gee.train", *flags, "--sync-batch-norm", "--device", "cpu", "--run-dir", str(run_dir)
    )
    assert shown.count("epoch   1/1") == 1  # the first process alone speaks and writes
    (record,) = read_metrics(run_dir / "metrics.jsonl")
    assert record["images_per_second"] > 0
    assert (run_dir / "best.safetensors").exists()
