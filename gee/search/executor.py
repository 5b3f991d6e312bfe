"""Where candidates run: the interface, and its simplest implementation.

An executor takes tasks and yields outcomes as they come in, in any order. What comes out must not depend on
where: an outcome is a function of its task alone, apart from `seconds`. Failures that may be the machine's
fault (a worker died, a deadline passed) are tried again with the same seed; an exception, which would come
again, is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Evaluation:
    """What a trained candidate is judged by: CE, TD and SE of Eq. 16, all dimensionless."""

    cross_entropy: float
    temporal_difference: float
    spatial_entropy: float

    def is_finite(self) -> bool:
        return all(map(math.isfinite, (self.cross_entropy, self.temporal_difference, self.spatial_entropy)))


@dataclass(frozen=True)
class Task:
    """One candidate to be trained and scored."""

    generation: int
    index: int
    seed: int
    vector: tuple[float, ...]  # [n]

    @property
    def name(self) -> str:
        return f"candidate {self.generation}.{self.index}"


@dataclass(frozen=True)
class Outcome:
    """What became of a task: an evaluation or a failure."""

    task: Task
    evaluation: Evaluation | None
    failure: str | None
    seconds: float
    out_of_memory: bool = False


@dataclass(frozen=True)
class Event:
    """Something to show or to log while candidates run: `started`, `finished`, `retried` or `lost`."""

    kind: str
    task: Task
    place: str  # "this process", "worker 2 (process 4711)", "node 10.0.0.3 (process 4711)"
    detail: str = ""


Evaluate = Callable[[Task], Evaluation]
Notify = Callable[[Event], None]


@dataclass(frozen=True)
class Policy:
    """What to do with candidates that take too long, take too much, or take their worker with them.

    timeout: seconds that one attempt may take, None: any;  retries: further attempts after a lost worker or
    a passed deadline, with the same seed;  on_oom: `penalise`, or `retry` alone, when nothing else runs
    """

    timeout: float | None = None
    retries: int = 2
    on_oom: str = "penalise"


class Executor(Protocol):
    """Runs candidates. `slots` is how many at a time, where known."""

    slots: int

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, as they come in; never raises for what a candidate does."""
        ...

    def close(self) -> None:
        """Stop whatever still runs and give back what is held."""
        ...


def run_task(evaluate: Evaluate, task: Task) -> Outcome:
    """Evaluate a task and turn whatever happens into an outcome; every executor ends up here."""
    begun = time.perf_counter()
    evaluation, failure, out_of_memory = None, None, False
    try:
        evaluation = evaluate(task)
        if not evaluation.is_finite():
            failure = (
                f"non-finite: cross-entropy {evaluation.cross_entropy}, temporal difference "
                f"{evaluation.temporal_difference}, spatial entropy {evaluation.spatial_entropy}"
            )
            evaluation = None
    except Exception as error:
        out_of_memory = is_out_of_memory(error)
        failure = "out of memory" if out_of_memory else f"{type(error).__name__}: {error}"
    return Outcome(task, evaluation, failure, time.perf_counter() - begun, out_of_memory)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch's CPU allocator has no type of its own for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
        or "DefaultCPUAllocator: not enough memory" in str(error)
    )


class InProcess:
    """One candidate after the other, in this process. Knows no deadline: nothing could enforce it."""

    slots = 1

    def __init__(self, evaluate: Evaluate, notify: Notify = lambda event: None, on_oom: str = "penalise"):
        self._evaluate, self._notify, self._on_oom = evaluate, notify, on_oom

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        for task in tasks:
            self._notify(Event("started", task, "this process"))
            outcome = run_task(self._evaluate, task)
            if outcome.out_of_memory and self._on_oom == "retry":  # it was alone already, but for garbage
                self._notify(Event("retried", task, "this process", "out of memory"))
                outcome = run_task(self._evaluate, task)
            self._notify(Event("finished", task, "this process", outcome.failure or ""))
            yield outcome

    def close(self) -> None:
        pass
