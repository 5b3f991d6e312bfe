"""The search itself: ask, evaluate what is not yet known, record, tell. Knows nothing of networks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

from gee.search.errors import RunDirectoryError, TooManyFailuresError
from gee.search.executor import Evaluation, Event, Executor, Outcome, Task
from gee.search.fitness import Fitness, penalised
from gee.search.run_directory import Candidate, RunDirectory
from gee.search.strategy import Strategy, candidate_seed


class Space(Protocol):
    """What the loop needs of a search space: where to begin, and what to call a point of the unit cube."""

    @property
    def start(self) -> Sequence[float]: ...
    @property
    def diagonal(self) -> bool: ...

    def describe(self, vector: Sequence[float]) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Settings:
    """The part of the configuration that determines what the search does."""

    fitness: Fitness = dataclasses.field(default_factory=Fitness)
    generations: int = 5
    population: int = 8
    step: float = 0.2
    seed: int = 0
    max_failures: float = 0.5


class Callback:
    """Override what you want to be told; every method may be left out."""

    def on_event(self, event: Event) -> None:
        """A candidate started, finished, is tried again, or was given up."""

    def on_candidate(self, candidate: Candidate) -> None:
        """A candidate is known and on the disk; those of a resumed run are not announced again."""

    def on_generation(self, generation: int, candidates: Sequence[Candidate], best: Candidate) -> None:
        """A generation is complete, one read back on resuming too; `best` of all so far."""

    def on_stage(self, stage: str) -> None:
        """`searching`, `training`, `measuring` or `reporting` begins."""


def search(
    executor: Executor,
    space: Space,
    settings: Settings,
    run: RunDirectory,
    callbacks: Sequence[Callback] = (),
) -> Candidate:
    """Run the generations that `run` lacks, and return the best candidate of all.

    What `run` holds is not evaluated again; the optimiser asks and is told again from the start, and must
    arrive at the vectors that were recorded.

    Raises:
        RunDirectoryError: the recorded candidates are not those of this configuration and these versions.
        TooManyFailuresError: more than `max_failures` of a generation's candidates failed.
    """
    strategy = Strategy(space.start, settings.step, settings.population, settings.seed, space.diagonal)
    everyone: list[Candidate] = []
    for generation in range(settings.generations):
        tasks = [
            Task(generation, index, candidate_seed(settings.seed, generation, index), vector)
            for index, vector in enumerate(strategy.ask())
        ]
        known = [task for task in tasks if (generation, task.index) in run.candidates]
        for task in known:
            _verify(run, task)
        unknown = [task for task in tasks if (generation, task.index) not in run.candidates]
        for outcome in executor.run(unknown):
            candidate = _candidate(outcome, space, settings.fitness)
            run.append(candidate)
            if candidate.failure:
                run.log(f"{outcome.task.name} failed: {candidate.failure}")
            for callback in callbacks:
                callback.on_candidate(candidate)
        candidates = [run.candidates[generation, index] for index in range(settings.population)]
        _check_failures(run, candidates, settings.max_failures)
        strategy.tell(penalised([candidate.fitness for candidate in candidates]))
        everyone += candidates
        best = best_candidate(everyone, generation, settings.fitness)
        for callback in callbacks:
            callback.on_generation(generation, candidates, best)
    return best


def random_candidate(space: Space, settings: Settings) -> Candidate:
    """`random`, the ablation without evolution: the first sample of what the others start from."""
    strategy = Strategy(space.start, settings.step, settings.population, settings.seed, space.diagonal)
    vector = strategy.ask()[0]
    seed = candidate_seed(settings.seed, 0, 0)
    return Candidate(0, 0, seed, vector, space.describe(vector), None, None, None, None, 0.0)


def best_candidate(candidates: Sequence[Candidate], generation: int, fitness: Fitness) -> Candidate:
    """The candidate with the lowest fitness, all of them scored with the d(n) of the same `generation`.

    The recorded values are not comparable between generations: d(n) falls, so the bonus for novelty in the
    first generation would outweigh whatever evolution achieved.
    """

    def score(candidate: Candidate) -> float:
        evaluation = evaluation_of(candidate)
        return math.inf if evaluation is None else fitness(evaluation, generation)

    return min(candidates, key=lambda c: (score(c), c.generation, c.index))


def evaluation_of(candidate: Candidate) -> Evaluation | None:
    """CE, TD and SE of a recorded candidate; None where it failed."""
    ce, td, se = candidate.cross_entropy, candidate.temporal_difference, candidate.spatial_entropy
    return None if ce is None or td is None or se is None else Evaluation(ce, td, se)


def _candidate(outcome: Outcome, space: Space, fitness: Fitness) -> Candidate:
    task, evaluation = outcome.task, outcome.evaluation
    values = (None, None, None, None)
    if evaluation is not None:
        values = (*dataclasses.astuple(evaluation), fitness(evaluation, task.generation))
    return Candidate(
        task.generation,
        task.index,
        task.seed,
        task.vector,
        space.describe(task.vector),
        *values,
        seconds=round(outcome.seconds, 3),
        failure=outcome.failure,
    )


def _verify(run: RunDirectory, task: Task) -> None:
    recorded = run.candidates[task.generation, task.index]
    if recorded.vector != task.vector or recorded.seed != task.seed:
        raise RunDirectoryError(
            f"{run.path / 'candidates.jsonl'}: {task.name} is not the one that this configuration and these "
            "versions ask for. Continue the run with the versions in its run.json, or begin a new one"
        )


def _check_failures(run: RunDirectory, candidates: Sequence[Candidate], allowed: float) -> None:
    failed = [candidate for candidate in candidates if candidate.failure]
    if len(failed) > allowed * len(candidates) or len(failed) == len(candidates):
        reasons = "; ".join(sorted({str(candidate.failure) for candidate in failed})[:3])
        raise TooManyFailuresError(
            f"{len(failed)} of {len(candidates)} candidates of generation {failed[0].generation} failed "
            f"(allowed: {allowed:.0%}): {reasons}. Mend the cause, delete the failed lines from "
            f"{run.path / 'candidates.jsonl'} and continue with --resume {run.path}"
        )
