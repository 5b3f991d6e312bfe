"""Run by torchrun from test_distributed.py: trains, and the first process writes the losses to a file.

torchrun --nproc-per-node 2 -m tests.gee.distributed_training FILE
"""

import json
import sys
from pathlib import Path

import torch

import gee.data
from gee.data.dataset import InMemory
from gee.training import ModelConfig, TrainConfig, Trainer
from gee.training.distributed import processes, rank, world


class DoubleDigits(InMemory):
    """In float64 the order of a sum does not decide whether a neuron fires."""

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        return super().normalise(images).double()


def train(sync_batch_norm: bool) -> dict[str, object]:
    """Two epochs of a small genetic ResNet in float64, 32 images per step."""
    data = DoubleDigits(**vars(gee.data.load("digits").subset(train=96, test=50)))
    torch.manual_seed(0)
    config = ModelConfig(model="resnet18", width=0.0625, genes=4, time_steps=2)
    model = config.create(num_classes=10, in_channels=1).double()
    logits = []
    settings = TrainConfig(epochs=2, batch_size=32, sync_batch_norm=sync_batch_norm, lr=0.01)
    trainer = Trainer(model, data, settings, on_batch=lambda step: logits.append(step.step_logits))
    history = list(trainer.epochs())
    return {
        "world": world(),
        "steps": len(logits),
        "local_batch": logits[0].shape[1],
        "losses": [metrics.loss for metrics in history],
        "accuracies": [metrics.accuracy for metrics in history],
        "gradient_norms": [metrics.gradient_norm for metrics in history],
        "test_losses": [metrics.evaluation.loss for metrics in history if metrics.evaluation],
        "confusion": history[-1].evaluation.confusion.tolist() if history[-1].evaluation else None,
        "weights": {name: x.double().sum().item() for name, x in model.state_dict().items()},
    }


def main(path: Path) -> None:
    with processes("cpu"):
        result = {str(sync): train(sync) for sync in (True, False)}
        if rank() == 0:
            path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
