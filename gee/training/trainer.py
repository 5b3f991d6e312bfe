"""The training loop: one class for full runs, for the search's candidates, and for several processes."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gee.data import Dataset
from gee.data.dataset import epoch_generator
from gee.layers import SpikingConv2d
from gee.models import SpikingNetwork
from gee.training import distributed
from gee.training.config import TrainConfig
from gee.training.evaluation import Evaluation, at_least_float32, autocast, evaluate
from gee.training.optimiser import build_optimiser, learning_rate

CHECK_EVERY = 16  # steps between looks at the loss on a GPU: each look waits for it


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number."""


class TrainingStep(NamedTuple):
    """What `on_batch` sees after each optimiser step."""

    epoch: int  # from 0
    step: int  # of this epoch, from 0
    steps: int  # in this epoch
    step_logits: Tensor  # [T, B, classes] float32 or float64, detached: the logits of each time step
    labels: Tensor  # [B]
    loss: Tensor  # scalar, detached


@dataclass
class EpochMetrics:
    """What one epoch of training gave; means over its images (losses) or steps (norms)."""

    epoch: int  # from 0
    loss: float  # the minimised one, with label smoothing
    cross_entropy: float  # without
    accuracy: float  # on the augmented training images, while they were learned
    learning_rate: float  # of the last step
    gradient_norm: float  # before clipping
    encoding_gradient_norms: dict[str, float]  # of every X_p and of G, before clipping
    seconds: float
    images_per_second: float
    evaluation: Evaluation | None = field(default=None, repr=False)


class Trainer:
    """Trains a spiking network.

        trainer = Trainer(model, data, TrainConfig(epochs=20))
        for metrics in trainer.epochs():
            print(metrics.loss, metrics.evaluation.accuracy)

    Order, augmentation and any draws of the network in an epoch are functions of (config.seed, epoch); global
    generators are left as they were. With several processes (torchrun) the gradients are averaged, and the
    processes share each batch.

    Args:
        model: on the device on which it is to be trained.
        data: the data set.
        config: how to train.
        on_batch: called after each step, for statistics of the step logits or a progress bar.
    """

    def __init__(
        self,
        model: SpikingNetwork,
        data: Dataset,
        config: TrainConfig,
        *,
        on_batch: Callable[[TrainingStep], None] | None = None,
    ):
        self.model, self.data, self.config, self.on_batch = model, data, config, on_batch
        self.device = next(model.parameters()).device
        self.epoch = 0  # epochs completed
        self.optimiser = build_optimiser(model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "float16")
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        encodings, interaction = model.genetic_parameters()
        genes = {id(parameter) for parameter in (*encodings, interaction) if parameter is not None}
        self.genes = {name: p for name, p in model.named_parameters() if id(p) in genes}
        for layer in model.modules():
            if isinstance(layer, SpikingConv2d):
                layer.synchronised = config.sync_batch_norm
        network: nn.Module = _StepLogits(model)
        if distributed.world() > 1:
            network = nn.parallel.DistributedDataParallel(network)
        self.step_logits = torch.compile(network) if config.compile else network

    def epochs(self, *, evaluate: bool = True) -> Iterator[EpochMetrics]:
        """Train the epochs that remain, one per iteration.

        Args:
            evaluate: whether to evaluate on the held-out examples after each epoch.

        Raises:
            NonFiniteLossError: the loss became infinite or not a number.
        """
        while self.epoch < self.config.epochs:
            metrics = self.train_epoch()
            if evaluate:
                metrics.evaluation = self.evaluate()
            yield metrics

    def evaluate(self) -> Evaluation:
        """Evaluate on the held-out examples; see `gee.training.evaluate`."""
        distributed.copy_from_first(self.model.buffers())  # running statistics of batch norms
        share = {"rank": distributed.rank(), "world": distributed.world()}
        batches = self.data.test_batches(4 * self.config.batch_size, device=self.device, **share)
        return evaluate(self.model, batches, amp=self.config.amp)

    def train_epoch(self) -> EpochMetrics:
        """Train one epoch.

        Raises:
            NonFiniteLossError: the loss became infinite or not a number.
        """
        config, start = self.config, time.perf_counter()
        self.model.train()
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)  # loss, cross-entropy, hits, images
        norms = torch.zeros(1 + len(self.genes), dtype=torch.float64, device=self.device)
        batches = self.data.train_batches(
            config.batch_size,
            seed=config.seed,
            epoch=self.epoch,
            device=self.device,
            rank=distributed.rank(),
            world=distributed.world(),
        )
        rate = 0.0
        own_gpu = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(own_gpu):
            epoch_seed = epoch_generator(config.seed, self.epoch).initial_seed()
            torch.manual_seed(epoch_seed + distributed.rank())
            for step, (images, labels) in enumerate(batches):
                rate = learning_rate(config, self.epoch * self.steps_per_epoch + step, self.steps_per_epoch)
                step_logits, loss = self._step(images, labels, rate, norms)
                sums += self._statistics(step_logits, labels, loss)
                if step % (CHECK_EVERY if self.device.type == "cuda" else 1) == 0:
                    self._check(sums, step)
                if self.on_batch is not None:
                    self.on_batch(
                        TrainingStep(self.epoch, step, self.steps_per_epoch, step_logits, labels, loss)
                    )
        distributed.sum_over_processes(sums)
        self._check(sums, self.steps_per_epoch - 1)
        loss_sum, cross_entropy_sum, hits, images_seen = sums.tolist()
        total_norm, *gene_norms = (norms / self.steps_per_epoch).tolist()
        seconds = time.perf_counter() - start
        self.epoch += 1
        return EpochMetrics(
            epoch=self.epoch - 1,
            loss=loss_sum / images_seen,
            cross_entropy=cross_entropy_sum / images_seen,
            accuracy=hits / images_seen,
            learning_rate=rate,
            gradient_norm=total_norm,
            encoding_gradient_norms=dict(zip(self.genes, gene_norms, strict=True)),
            seconds=seconds,
            images_per_second=images_seen / seconds,
        )

    def _step(self, images: Tensor, labels: Tensor, rate: float, norms: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser step; adds the gradients' norms to `norms`; step logits and loss, detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.device, self.config.amp):
            step_logits = self.step_logits(images)
        step_logits = at_least_float32(step_logits)  # [T, B, classes]
        loss = F.cross_entropy(step_logits.mean(0), labels, label_smoothing=self.config.label_smoothing)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        gene_norms = [torch.linalg.vector_norm(_gradient(parameter)) for parameter in self.genes.values()]
        limit = math.inf if self.config.clip is None else self.config.clip
        total = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        norms += torch.stack([total, *gene_norms])
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        return step_logits.detach(), loss.detach()

    @torch.no_grad()
    def _statistics(self, step_logits: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
        logits = step_logits.mean(0)
        count = torch.full_like(loss, len(labels))
        hits = (logits.argmax(1) == labels).sum()
        return torch.stack([loss * count, F.cross_entropy(logits, labels) * count, hits, count]).double()

    def _check(self, sums: Tensor, step: int) -> None:
        loss = sums[0].item()
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss is {loss} in epoch {self.epoch + 1}, at or before step {step + 1} of "
                f"{self.steps_per_epoch}; a smaller learning rate (lr={self.config.lr}) or clipping "
                f"(clip={self.config.clip}) may help"
            )

    # State for checkpoints: tensors and plain values, apart so that no pickle is needed.

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next epoch depends on: tensors by name, and values that JSON can hold."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{index}.{name}": value for name, value in values.items()})
        return tensors, {"epoch": self.epoch, "scaler": self.scaler.state_dict()}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            KeyError, RuntimeError: the state is of another network.
        """
        prefix = "model."
        self.model.load_state_dict(
            {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(values["scaler"])
        self.epoch = values["epoch"]


class _StepLogits(nn.Module):
    """The network with `step_logits` as its forward, which is what data parallelism wraps."""

    def __init__(self, model: SpikingNetwork):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.step_logits(images)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
