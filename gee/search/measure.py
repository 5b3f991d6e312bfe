"""What came out, in numbers: result.json holds everything that a report shows."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from gee import energy
from gee.models import SpikingNetwork
from gee.search.candidate import TrainCandidate
from gee.search.run_directory import Candidate, machine, versions
from gee.training import evaluate

BATCH = 256


def measure(network: SpikingNetwork, problem: TrainCandidate, best: Candidate) -> dict[str, Any]:
    """Evaluate the trained network on the held-out examples and count its operations.

    Energy and spikes are means over the first `energy.images` of them, without decoding the weights.
    """
    data = problem.data
    evaluation = evaluate(network, data.test_batches(BATCH, device=problem.device), amp=problem.train.amp)
    images, _ = next(iter(data.test_batches(BATCH, device=problem.device)))
    report = energy.profile(network, images)
    parameters = _parameters(network)
    dense_parameters = _parameters(_dense_twin(network, problem))
    return {
        "best": asdict(best),
        "dataset": data.name,
        "note": data.note,
        "classes": list(data.classes),
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(evaluation.interval),  # 95 %, Wilson
        "held_out": evaluation.count,
        "loss": evaluation.loss,
        "confusion": evaluation.confusion.tolist(),  # [true class][predicted class]
        "firing_rates": evaluation.firing_rates,  # spikes per neuron and step, by layer
        "parameters": parameters,
        "dense_parameters": dense_parameters,
        "compression": dense_parameters / parameters,
        "energy": {  # per image
            "images": len(images),
            **_operations(report),
            "layers": [
                {"name": layer.name, "graded": layer.graded, **_operations(layer)} for layer in report.layers
            ],
        },
        "versions": versions(),
        "machine": {**machine(), **_accelerator(problem.device)},
    }


def _operations(part: energy.Operations) -> dict[str, float]:
    return {
        "macs": part.macs,
        "acs": part.acs,
        "spikes": part.spikes,
        "energy_mj": part.energy_mj,
        "decode_macs": part.decode_macs,
        "dense_macs": part.dense_macs,
        "dense_energy_mj": part.dense_energy_mj,
    }


def _parameters(network: SpikingNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _dense_twin(network: SpikingNetwork, problem: TrainCandidate) -> SpikingNetwork:
    with torch.random.fork_rng(devices=[]):
        return replace(problem.model, genes=None).create(
            num_classes=network.num_classes, in_channels=network.in_channels
        )


def _accelerator(device: str) -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name()} if torch.device(device).type == "cuda" else {}
