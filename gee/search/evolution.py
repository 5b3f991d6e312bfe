"""The whole job: search, train the best candidate in full, measure it, write the report."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gee import report
from gee.config import load, to_dict
from gee.models import SpikingNetwork
from gee.search.candidate import TrainCandidate
from gee.search.config import SearchConfig
from gee.search.executor import Event, Executor, InProcess, Notify, Task
from gee.search.genotype import GenotypeSpace
from gee.search.loop import Callback, random_candidate, search
from gee.search.measure import measure
from gee.search.processes import LocalProcesses
from gee.search.progress import LogEvents, Progress, Scalars
from gee.search.run_directory import Candidate, RunDirectory, explained
from gee.training import WeightsError, load_model, save_weights
from gee.training.run import train

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class SearchResult:
    """What an evolution gave; `data` is result.json, everything that the report shows."""

    run_dir: Path
    best: Candidate
    candidates: tuple[Candidate, ...]  # by generation and index
    data: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """On the held-out examples."""
        return self.data["accuracy"]

    @property
    def parameters(self) -> int:
        return self.data["parameters"]

    @property
    def dense_parameters(self) -> int:
        return self.data["dense_parameters"]

    @property
    def spikes(self) -> float:
        """Per image."""
        return self.data["energy"]["spikes"]

    @property
    def energy_mj(self) -> float:
        """Per image, without decoding the weights."""
        return self.data["energy"]["energy_mj"]

    @property
    def report(self) -> Path:
        """The page that shows it all."""
        return self.run_dir / "report.html"

    def load_model(self) -> SpikingNetwork:
        """The trained network, on the CPU."""
        return load_model(self.run_dir / WEIGHTS)[0]

    def __str__(self) -> str:
        data, energy = self.data, self.data["energy"]
        low, high = data["accuracy_interval"]
        lines = [
            f"accuracy     {self.accuracy:.2%} of {data['held_out']} held-out images, 95 % interval "
            f"{low:.1%} to {high:.1%}",
            f"parameters   {self.parameters:,}, dense twin {self.dense_parameters:,} "
            f"({data['compression']:.1f} times as many)",
            f"spikes       {self.spikes:,.0f} per image",
            f"energy       {1e6 * self.energy_mj:,.1f} nJ per image, conventional network "
            f"{1e6 * energy['dense_energy_mj']:,.1f} nJ",
            f"report       {self.report}",
        ]
        return "\n".join(lines)


def evolve(config: SearchConfig, callbacks: Sequence[Callback] = ()) -> SearchResult:
    """Evolve, train and measure a network as `config` says; with `config.resume`, continue that run.

    Args:
        config: where `resume` is set, what the result depends on must be as it was;
            `resume_config` reads it from the run.
        callbacks: told what happens, after it is on the disk.

    Returns:
        the result, which a finished run gives again at once.

    Raises:
        SearchError: the run directory cannot be used, too many candidates failed, or workers do not start.
        gee.data.DataError: the data set is missing or damaged.
        gee.training.NonFiniteLossError: the full training diverged.
        ValueError: an unknown model, or a value out of range.
    """
    config = replace(config, device=_device(config.device))
    problem = problem_of(config)
    problem.build(Task(0, 0, 0, tuple(problem.space.start)))  # what cannot be built is said before the search
    with _open(config) as run:
        finished = run.read_json("result.json")
        if finished is None:
            begun = time.perf_counter()
            best = _search(config, problem, run, callbacks)
            finished = _train_and_measure(config, problem, run, best, callbacks)
            run.log(f"finished; this session took {time.perf_counter() - begun:.1f} s")
        result = SearchResult(
            run.path,
            Candidate.from_dict(finished["best"]),
            tuple(run.candidates[key] for key in sorted(run.candidates)),
            finished,
        )
        _announce(callbacks, "reporting")
        with explained(run.path):
            report.write(run.path)
    return result


def problem_of(config: SearchConfig) -> TrainCandidate:
    """What candidates are, with the data loaded."""
    space = GenotypeSpace(config.genotype, config.genes)
    data, epochs, threads = config.data.load(), config.candidate_epochs, config.candidate_threads
    return TrainCandidate(
        config.network, config.training, data, space, epochs, _device(config.device), threads
    )


def resume_config(run_dir: str | Path) -> SearchConfig:
    """The configuration that continues the run in `run_dir`.

    Raises:
        gee.config.ConfigError: config.json does not fit this version.
        OSError: there is none.
    """
    return replace(load(SearchConfig, Path(run_dir) / "config.json"), resume=Path(run_dir))


def _open(config: SearchConfig) -> RunDirectory:
    saved = to_dict(replace(config, run_dir=None, resume=None, plan=False))
    if config.resume is not None:
        return RunDirectory.resume(config.resume, saved)
    return RunDirectory.create(run_dir(config), saved)


def run_dir(config: SearchConfig) -> Path:
    """Where a new run goes."""
    name = f"{config.data.dataset}-{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
    return config.run_dir or Path("runs") / name


def _search(
    config: SearchConfig, problem: TrainCandidate, run: RunDirectory, callbacks: Sequence[Callback]
) -> Candidate:
    if config.method == "random":
        return random_candidate(problem.space, config.settings)
    told: list[Callback] = [LogEvents(run), *callbacks]

    def notify(event: Event) -> None:
        for callback in told:
            callback.on_event(event)

    with (
        _executor(config, problem, notify) as executor,
        contextlib.closing(Scalars(run, config.tensorboard)) as s,
    ):
        told.append(s)
        if config.progress:
            told.append(Progress(config, executor.slots, len(run.candidates)))
        _announce(told, "searching")
        try:
            return search(executor, problem.space, config.settings, run, told)
        finally:
            _announce(told, "training")


@contextlib.contextmanager
def _executor(config: SearchConfig, problem: TrainCandidate, notify: Notify) -> Iterator[Executor]:
    cuda = config.device.startswith("cuda")
    executor: Executor
    if config.executor == "ray":
        from gee.search.ray_executor import RayExecutor

        remote = replace(problem, device="cuda" if config.gpus_per_candidate else "cpu")
        cpus, gpus = config.candidate_threads, config.gpus_per_candidate
        executor = RayExecutor(remote, notify, config.policy, config.address, cpus, gpus)
    else:
        names = _gpu_names() if cuda else []
        workers = config.local_workers(len(names))
        if workers == 0:
            executor = InProcess(problem, notify, config.on_oom)
        else:
            threads = config.candidate_threads
            executor = LocalProcesses(problem, workers, notify, config.policy, threads, names)
    try:
        yield executor
    finally:
        executor.close()


def _train_and_measure(
    config: SearchConfig,
    problem: TrainCandidate,
    run: RunDirectory,
    best: Candidate,
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    """Train the best candidate in full from where it began, and write weights.safetensors and result.json."""
    _announce(callbacks, "training")
    begun = time.perf_counter()
    if config.progress:
        print(f"training candidate {best.generation}.{best.index} in full, {config.training.epochs} epochs")
    with explained(run.path):
        network = _train(config, problem, run, best)
        trained = time.perf_counter()
        _announce(callbacks, "measuring")
        result = measure(network, problem, best)
        about = {"dataset": problem.data.name, "test_accuracy": result["accuracy"]}
        save_weights(run.path / WEIGHTS, network, config.network, about)
    result["method"] = config.method
    result["seconds"] = {  # `training` and `measuring`: of the session that finished them
        "candidates": sum(candidate.seconds for candidate in run.candidates.values()),
        "training": trained - begun,
        "measuring": time.perf_counter() - trained,
    }
    run.write_json("result.json", result)
    return run.read_json("result.json")


def _train(
    config: SearchConfig, problem: TrainCandidate, run: RunDirectory, best: Candidate
) -> SpikingNetwork:
    """The fully trained network; continues from a checkpoint, and starts again where that is damaged."""
    folder = run.path / "train"
    settings = replace(config.training, seed=best.seed)
    for attempt in range(2):
        network = problem.build(best)
        try:
            train(
                network,
                problem.data,
                settings,
                model_config=config.network,
                run_dir=folder,
                resume=True,
                tensorboard=config.tensorboard,
                progress=config.progress,
            )
            break
        except WeightsError as error:
            if attempt or not folder.exists():
                raise
            aside = folder.with_name(f"train.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
            folder.rename(aside)
            run.log(f"{error}; moved to {aside.name}, the full training starts again")
    return network


def _announce(callbacks: Sequence[Callback], stage: str) -> None:
    for callback in callbacks:
        callback.on_stage(stage)


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _gpu_names() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would call each GPU that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
