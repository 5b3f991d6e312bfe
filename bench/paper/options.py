"""The flags that all experiments share, and the two sizes at which they run."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from bench.paper import published
from gee.data import Dataset
from gee.search import SearchConfig
from gee.training import DataConfig, ModelConfig, TrainConfig

RESULTS = Path("bench/results/paper")


@dataclass
class Scale:
    """The size of an experiment. Flags left out are the preset's."""

    width: float | None = None
    """Factor on the channels, and on the number of genes, of the paper's networks."""
    image_size: int | None = None
    """Side of the images in pixels."""
    train_images: int | None = None
    """Training images used, the first ones."""
    test_images: int | None = None
    """Held-out images used, the first ones."""
    epochs: int | None = None
    """Epochs of the full training."""
    generations: int | None = None
    """Generations of the search."""
    population: int | None = None
    """Candidates in a generation."""
    candidate_epochs: int | None = None
    """Epochs for which a candidate is trained."""
    batch_size: int | None = None
    """Images per training step."""


PRESETS = {
    "cpu": Scale(
        width=0.125,
        image_size=16,
        train_images=2000,
        test_images=2000,
        epochs=12,
        generations=3,
        population=4,
        candidate_epochs=2,
        batch_size=50,
    ),
    # Population, candidate epochs and batch size are ours: the paper does not state them.
    "gpu": Scale(
        width=1.0,
        epochs=published.EPOCHS,
        generations=published.GENERATIONS,
        population=8,
        candidate_epochs=published.SECTION44_EPOCHS["ste"],
        batch_size=128,
    ),
}


@dataclass(frozen=True)
class Configuration:
    """One line of an experiment, in the paper's numbers; `Options.search` brings it to scale."""

    model: str
    genes: int
    method: str = "ste"
    tail_channels: int | None = None
    effort: int = 1  # factor on the epochs of a candidate

    @property
    def name(self) -> str:
        tail = f", tail {self.tail_channels}" if self.tail_channels else ""
        return f"{self.model}{tail}, g = {self.genes}"


@dataclass
class Options:
    """Flags of every experiment."""

    preset: Literal["cpu", "gpu"] = "cpu"
    """cpu: scaled-down networks, few images; gpu: the paper's size."""
    dataset: Literal["cifar10", "cifar100", "digits"] = "cifar10"
    """The images; digits come with scikit-learn."""
    data_dir: Path = Path("data")
    """Folder with the data set's files."""
    seeds: int = 3
    """Repetitions of each configuration, with seeds 0, 1, 2, ..."""
    networks: tuple[str, ...] = ()
    """Only these networks (resnet19, vgg16, ...); none named: all of the experiment."""
    plan: bool = False
    """List the runs, say which are done, and stop."""
    run_dir: Path = Path("runs/paper")
    """Where runs are kept; experiments share them, and an interrupted one continues."""
    results: Path = RESULTS
    """Where the table, the figure and their conditions are written."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    workers: int | None = None
    """Candidates at a time; 0: one, in this process; None: one per GPU, or one per core."""
    progress: bool = True
    """Print a line per generation and epoch."""
    scale: Scale = field(default_factory=Scale)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        given = {name: value for name, value in asdict(self.scale).items() if value is not None}
        self.scale = replace(PRESETS[self.preset], **given)

    @property
    def data(self) -> DataConfig:
        scale = self.scale
        return DataConfig(
            self.dataset, self.data_dir, scale.image_size, scale.train_images, scale.test_images
        )

    def search(self, configuration: Configuration, seed: int) -> SearchConfig:
        """The evolution and the full training that stand for `configuration`, at this scale."""
        scale = self.scale
        return SearchConfig(
            method=configuration.method,  # type: ignore[arg-type]
            generations=scale.generations,
            population=scale.population,
            candidate_epochs=scale.candidate_epochs * configuration.effort,
            device=self.device,
            workers=self.workers,
            progress=self.progress,
            tensorboard="off",
            network=ModelConfig(
                model=configuration.model,
                genes=max(2, round(configuration.genes * scale.width)),
                time_steps=published.TIME_STEPS,
                width=scale.width,
                tail_channels=configuration.tail_channels,
            ),
            data=self.data,
            training=TrainConfig(
                epochs=scale.epochs,
                batch_size=scale.batch_size,
                amp="bfloat16" if self.device.startswith("cuda") else "none",
                seed=seed,
            ),
        )

    def describe(self, data: Dataset) -> str:
        """What was trained on what, and how that differs from the paper: it stands beside every result."""
        scale, side = self.scale, data.shape[-1]
        text = (
            f"{self.preset} preset: {data.name}, {data.train_size:,} training images of {side}x{side}; "
            f"evaluated on {data.note}. {scale.generations} generations of {scale.population} candidates, "
            f"{scale.candidate_epochs} epochs each, then {scale.epochs} epochs."
        )
        if scale.width != 1:
            text += f" Scaled down: channels and genes times {scale.width:g}; g names the paper's network."
        paper = (f"{published.EPOCHS} epochs", f"{published.GENERATIONS} generations")
        if (scale.epochs, scale.generations) != (published.EPOCHS, published.GENERATIONS):
            text += f" The paper: {paper[1]}, {paper[0]}, all images at 32x32."
        return text
