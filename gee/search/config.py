"""The configuration of an evolution: the single source of defaults, flags, `--help` and config.json."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gee.search.executor import Policy
from gee.search.fitness import Fitness
from gee.search.loop import Settings
from gee.training import DataConfig, ModelConfig, TrainConfig
from gee.training.logs import TensorBoard


@dataclass
class SearchConfig:
    """Evolve, train and measure a genetically encoded spiking network.

    CMA-ES searches the distributions from which the genes begin; each candidate is trained for a few epochs
    and scored; the best one is trained in full, measured, and described in a report.

    examples:
      python -m gee.evolve                                   digits, a small network, minutes on a laptop
      python -m gee.evolve --plan                            say what would be done, and how long it takes
      python -m gee.evolve --resume runs/NAME                continue after a crash, to the same end
      python -m gee.evolve --dataset cifar10 --model resnet19 --genes 100 --epochs 200
      python -m gee.evolve --method baseline+td --seed 3     an ablation of the paper's Table 4
      python -m gee.evolve --executor ray --address auto --gpus-per-candidate 1
    """

    method: Literal["random", "baseline", "baseline+td", "baseline+se", "ste"] = "ste"
    """What candidates are scored by: ste rewards variety in time and in the genes, baseline the loss alone;
    random trains a random genotype without any search."""
    generations: int = 5
    """Generations of the search."""
    population: int = 8
    """Candidates in a generation."""
    candidate_epochs: int = 2
    """Epochs that each candidate is trained for."""
    genotype: Literal["distributions", "full"] = "distributions"
    """What evolves: the distributions of X and G (six numbers), or X's and every entry of G."""
    step: float = 0.2
    """First step size of CMA-ES, as a share of each number's range."""
    td_weight: float = 0.5
    """Weight alpha of the temporal difference in the fitness."""
    se_weight: float = 0.5
    """Weight beta of the spatial entropy in the fitness."""
    novelty_decay: float = 1.0
    """How fast both weights fall with the generation n: by 1 / (1 + novelty_decay n)."""

    run_dir: Path | None = None
    """Where the run is written; None: runs/DATASET-METHOD-TIME."""
    resume: Path | None = None
    """Continue the run in this directory; its configuration is read from there."""
    plan: bool = False
    """Say what would be trained, for how long and with how much memory, and stop."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""

    tensorboard: TensorBoard = "auto"
    """Scalars for TensorBoard; auto: where it is installed (`pip install 'gee[tensorboard]'`)."""
    progress: bool = True
    """Print a line per generation and epoch, and on a terminal a progress bar."""

    executor: Literal["local", "ray"] = "local"
    """Where candidates run: on this machine, or on a Ray cluster (extra gee[ray])."""
    workers: int | None = None
    """Local worker processes; 0: in this process, None: one per GPU, or one per core."""
    address: str | None = None
    """The Ray cluster, as ray.init takes it (auto, HOST:PORT); None: start one on this machine."""
    gpus_per_candidate: float = 0.0
    """With Ray: GPUs that a candidate takes; fractions share one."""
    candidate_threads: int = 1
    """CPU threads of a candidate. Part of the result: sums are rounded differently for each number."""
    candidate_timeout: float | None = None
    """Seconds after which a candidate is cancelled and tried again; needs worker processes or Ray."""
    retries: int = 2
    """Further attempts for a candidate whose worker died or that passed its deadline."""
    on_oom: Literal["penalise", "retry"] = "penalise"
    """A candidate that runs out of memory ranks last, or is tried again alone first."""
    max_failures: float = 0.5
    """Stop where more than this share of a generation fails."""

    network: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name, least in (
            ("generations", 1),
            ("population", 2),
            ("candidate_epochs", 1),
            ("candidate_threads", 1),
            ("retries", 0),
            ("workers", 0),
            ("td_weight", 0),
            ("se_weight", 0),
            ("novelty_decay", 0),
            ("gpus_per_candidate", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < self.step <= 1:
            raise ValueError(f"step must be in (0, 1], got {self.step}")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"max_failures must be in [0, 1], got {self.max_failures}")
        if self.candidate_timeout is not None and self.candidate_timeout <= 0:
            raise ValueError(f"candidate_timeout must be positive, got {self.candidate_timeout}")
        if self.candidate_timeout is not None and self.executor == "local" and self.workers == 0:
            raise ValueError("candidate_timeout needs worker processes: set workers to 1 or more, got 0")
        if self.network.genes is None:
            raise ValueError("genes must be a number: a dense twin has nothing to evolve, got None")

    @property
    def genes(self) -> int:
        assert self.network.genes is not None
        return self.network.genes

    @property
    def settings(self) -> Settings:
        """What the search loop needs of it."""
        return Settings(
            Fitness.of(self.method, self.td_weight, self.se_weight, self.novelty_decay),
            self.generations,
            self.population,
            self.step,
            self.training.seed,
            self.max_failures,
        )

    @property
    def policy(self) -> Policy:
        """What to do with candidates in trouble."""
        return Policy(self.candidate_timeout, self.retries, self.on_oom)

    def local_workers(self, gpus: int) -> int:
        """The number of worker processes on a machine with so many GPUs; never more than candidates."""
        if self.workers is not None:
            return min(self.workers, self.population)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(gpus or max(1, cores // self.candidate_threads), self.population)
