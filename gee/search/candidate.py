"""The problem that the search solves: draw a network from a genotype, train it for a while, and judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gee.data import Dataset
from gee.models import SpikingNetwork, initialise
from gee.search.executor import Evaluation, Task
from gee.search.genotype import GenotypeSpace
from gee.search.novelty import spatial_entropy, temporal_difference
from gee.search.run_directory import Candidate
from gee.training import ModelConfig, TrainConfig, Trainer, TrainingStep


@dataclass
class TrainCandidate:
    """Trains and scores candidates; a function of the task alone, in any process.

    model, train: the configuration of the full training; candidates differ in `epochs` and in the seed
    data: the data set itself, so that it reaches workers with the problem
    """

    model: ModelConfig
    train: TrainConfig
    data: Dataset
    space: GenotypeSpace
    epochs: int
    device: str = "cpu"
    threads: int = 1

    def build(self, candidate: Task | Candidate) -> SpikingNetwork:
        """The candidate's network before training, on the device. Draws from no global generator."""
        channels = self.data.shape[-3]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(candidate.seed)
            network = self.model.create(num_classes=len(self.data.classes), in_channels=channels)
        generator = torch.Generator().manual_seed(candidate.seed)
        initialise(network, self.space.decode(candidate.vector), generator)
        return network.to(self.device)

    def __call__(self, task: Task) -> Evaluation:
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)  # the order of torch's sums depends on it
        try:
            return self._train(task)
        finally:
            torch.set_num_threads(threads)

    def _train(self, task: Task) -> Evaluation:
        difference = torch.zeros((), dtype=torch.float64, device=self.device)
        images = 0

        def on_batch(step: TrainingStep) -> None:
            nonlocal images
            if step.epoch == self.epochs - 1:
                difference.add_(temporal_difference(step.step_logits).sum())
                images += len(step.labels)

        network = self.build(task)
        config = replace(self.train, epochs=self.epochs, seed=task.seed)
        trainer = Trainer(network, self.data, config, on_batch=on_batch)
        for metrics in trainer.epochs(evaluate=False):
            cross_entropy = metrics.cross_entropy
        _, G = network.genetic_parameters()
        assert G is not None
        return Evaluation(cross_entropy, difference.item() / images, spatial_entropy(G).item())
