"""The bookkeeping that executors with workers share: what runs next, again, alone, or never."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from gee.search.executor import Event, Notify, Outcome, Policy, Task


class Attempts:
    """The tasks of one generation on their way to an outcome.

    Ask `next` for a task when a worker is free, and report what became of it: `done`, or `lost` where the
    worker or the deadline took it. Both return the outcome, or None where the task is tried again.
    """

    def __init__(self, tasks: Sequence[Task], policy: Policy, notify: Notify) -> None:
        self._waiting, self._alone = deque(tasks), deque[Task]()
        self._policy, self._notify = policy, notify
        self._lost: Counter[Task] = Counter()
        self._second: set[Task] = set()  # ran out of memory once
        self._running: set[Task] = set()

    def __bool__(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._alone or self._running)

    @property
    def waiting(self) -> int:
        """How many more could be started now."""
        return len(self._waiting) or int(bool(self._alone and not self._running))

    def next(self) -> Task | None:
        """A task to start now; None where nothing waits, or what waits must run alone."""
        if self._running & self._second:
            return None
        if self._waiting:
            task = self._waiting.popleft()
        elif self._alone and not self._running:
            task = self._alone.popleft()
        else:
            return None
        self._running.add(task)
        return task

    def done(self, outcome: Outcome, place: str) -> Outcome | None:
        """The worker delivered an outcome."""
        self._running.discard(outcome.task)
        if outcome.out_of_memory and self._policy.on_oom == "retry" and outcome.task not in self._second:
            self._second.add(outcome.task)
            self._alone.append(outcome.task)
            self._notify(Event("retried", outcome.task, place, "out of memory, runs again alone"))
            return None
        self._notify(Event("finished", outcome.task, place, outcome.failure or ""))
        return outcome

    def lost(self, task: Task, why: str, seconds: float, place: str) -> Outcome | None:
        """The worker died, or the deadline passed."""
        self._running.discard(task)
        self._lost[task] += 1
        if self._lost[task] <= self._policy.retries:
            (self._alone if task in self._second else self._waiting).appendleft(task)
            self._notify(Event("retried", task, place, why))
            return None
        failure = f"{why}, {self._lost[task]} times" if self._lost[task] > 1 else why
        self._notify(Event("lost", task, place, failure))
        return Outcome(task, None, failure, seconds)
