"""What an evolution would do, said before anything runs: `--plan`."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from gee.search.candidate import TrainCandidate
from gee.search.config import SearchConfig
from gee.search.evolution import WEIGHTS, problem_of, run_dir
from gee.search.executor import Task
from gee.search.progress import duration
from gee.training import Trainer, TrainingStep

STEPS = 5  # measured ones, after two to warm up


@dataclass(frozen=True)
class Plan:
    """The size of a search, from one candidate's first training steps, measured on this machine."""

    candidates: int
    candidate_epochs: int
    final_epochs: int
    steps_per_epoch: int
    step_seconds: float  # median
    slots: int | None  # candidates at a time; None: only the cluster knows
    memory_bytes: int  # of one candidate
    device: str
    run_dir: Path

    @property
    def search_seconds(self) -> float:
        """Of all candidates, on as many slots as are known."""
        steps = self.candidates * self.candidate_epochs * self.steps_per_epoch
        return steps * self.step_seconds / (self.slots or 1)

    @property
    def final_seconds(self) -> float:
        return self.final_epochs * self.steps_per_epoch * self.step_seconds

    def __str__(self) -> str:
        at_a_time = f"{self.slots} at a time" if self.slots else "one at a time; a cluster divides this"
        where = "GPU memory" if self.device.startswith("cuda") else "memory"
        return "\n".join(
            [
                f"search         {self.candidates} candidates, {self.candidate_epochs} epochs of "
                f"{self.steps_per_epoch} steps each: about {duration(self.search_seconds)} ({at_a_time})",
                f"full training  {self.final_epochs} epochs: about {duration(self.final_seconds)}",
                f"measured       {1e3 * self.step_seconds:.1f} ms for a training step on {self.device}",
                f"memory         about {self.memory_bytes / 2**20:,.0f} MiB of {where} for a candidate",
                f"written to     {self.run_dir}: config.json, candidates.jsonl (a line per candidate), "
                f"train/ (checkpoint, metrics), {WEIGHTS}, result.json, tensorboard/, report.html",
            ]
        )


def make_plan(config: SearchConfig) -> Plan:
    """Measure a few training steps of the network that the search starts from; writes nothing.

    Times leave out evaluation and the start of workers, and assume that the machine is as busy as now.

    Raises:
        ValueError, gee.data.DataError: the configuration or the data are at fault.
    """
    problem = problem_of(config)
    seconds, memory = _measure(problem)
    slots: int | None = None
    if config.executor == "local":
        gpus = torch.cuda.device_count() if problem.device.startswith("cuda") else 0
        slots = max(1, config.local_workers(gpus))
    return Plan(
        candidates=0 if config.method == "random" else config.generations * config.population,
        candidate_epochs=config.candidate_epochs,
        final_epochs=config.training.epochs,
        steps_per_epoch=problem.data.steps_per_epoch(config.training.batch_size),
        step_seconds=seconds,
        slots=slots,
        memory_bytes=memory,
        device=problem.device,
        run_dir=config.resume or run_dir(config),
    )


class _EnoughError(Exception):
    pass


def _measure(problem: TrainCandidate) -> tuple[float, int]:
    """Seconds of a training step, median, and bytes that a candidate takes."""
    cuda = problem.device.startswith("cuda")
    times: list[float] = []

    def on_batch(step: TrainingStep) -> None:
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        if len(times) == STEPS + 2:
            raise _EnoughError

    before = _resident()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    threads = torch.get_num_threads()
    torch.set_num_threads(problem.threads)
    try:
        network = problem.build(Task(0, 0, 0, tuple(problem.space.start)))
        trainer = Trainer(network, problem.data, replace(problem.train, epochs=1), on_batch=on_batch)
        while True:  # a small data set ends before that
            trainer.epoch = 0
            trainer.train_epoch()
    except _EnoughError:
        pass
    finally:
        torch.set_num_threads(threads)
    steps = [after - earlier for earlier, after in pairwise(times[1:])]
    memory = torch.cuda.max_memory_allocated() if cuda else max(0, _peak() - before)
    return statistics.median(steps), memory


def _peak() -> int:
    """The most memory that this process had resident, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    """What it has now; the peak where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return _peak()
