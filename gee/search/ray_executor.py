"""Candidates as Ray tasks, on every CPU or GPU of a cluster (extra `gee[ray]`).

The optimiser and the run directory stay with the driver. The problem, data included, is put into the object
store once: it travels to each node once, and each worker process unpacks it once. A task first reports where
it runs, from which moment its deadline counts, and then its outcome; tasks of dead workers and dead nodes are
submitted again with the same seed, by the same bookkeeping as that of local processes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gee.search.attempts import Attempts
from gee.search.errors import MissingExtraError, SearchError
from gee.search.executor import Evaluate, Event, Notify, Outcome, Policy, Task, run_task


class RayExecutor:
    """As many candidates at a time as the cluster has room for.

    Args:
        evaluate: the problem; it and what it holds must be importable on every node.
        address: of a running cluster, as `ray.init` takes it; None: the one this process is connected to, or
            a new one on this machine.
        cpus_per_candidate: CPUs, and threads, that a candidate takes.
        gpus_per_candidate: GPUs that it takes; fractions share one.

    Raises:
        MissingExtraError: Ray is not installed.
        SearchError: no cluster at that address, or none of its nodes is large enough for one candidate.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        notify: Notify = lambda event: None,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        address: str | None = None,
        cpus_per_candidate: float = 1.0,
        gpus_per_candidate: float = 0.0,
    ) -> None:
        self._ray = ray = _import_ray()
        self._notify, self._policy = notify, policy
        self._threads = max(1, int(cpus_per_candidate))
        self._running: dict[Any, _Running] = {}  # by the generator of the task's reports
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            try:
                ray.init(
                    address=address, log_to_driver=False, include_dashboard=False if not address else None
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise SearchError(f"no Ray cluster at {address!r}: {error}") from error
        wanted = {"CPU": cpus_per_candidate, "GPU": gpus_per_candidate}
        self.slots = self._room(wanted)
        packed = np.frombuffer(pickle.dumps(evaluate, protocol=pickle.HIGHEST_PROTOCOL), dtype=np.uint8)
        self._problem, self._key = ray.put(packed), uuid.uuid4().hex
        self._submit = ray.remote(
            max_retries=0,  # ours, so that every attempt is seen and counted
            num_returns="streaming",
            num_cpus=cpus_per_candidate,
            num_gpus=gpus_per_candidate,
        )(_work).remote

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        attempts = Attempts(tasks, self._policy, self._notify)
        while attempts:
            while task := attempts.next():
                reports = self._submit(self._key, self._problem, task, self._threads)
                self._running[reports] = _Running(task)
            ready, _ = self._ray.wait(
                list(self._running), num_returns=1, timeout=self._until_deadline(), fetch_local=False
            )
            for reports in ready:
                outcome = self._receive(reports, attempts)
                if outcome is not None:
                    yield outcome
            yield from self._cancel_overdue(attempts)

    def close(self) -> None:
        for reports in list(self._running):
            self._kill(reports)
        if self._connected_here:
            self._ray.shutdown()

    def _receive(self, reports: Any, attempts: Attempts) -> Outcome | None:
        """The next report of one task: where it started, its outcome, or that its worker is gone."""
        running, errors = self._running[reports], self._ray.exceptions
        try:
            report = self._ray.get(next(reports))
        except errors.RayTaskError as error:  # evaluation never raises: the worker could not even begin
            raise SearchError(f"Ray workers cannot run candidates: {error}") from error
        except errors.OutOfMemoryError:  # Ray's own watch killed the worker
            del self._running[reports]
            return attempts.done(
                Outcome(running.task, None, "out of memory", running.seconds, out_of_memory=True),
                running.place,
            )
        except errors.RayError as error:
            del self._running[reports]
            lost = "node died" if isinstance(error, errors.NodeDiedError) else "worker died"
            return attempts.lost(running.task, lost, running.seconds, running.place)
        if isinstance(report, Outcome):
            del self._running[reports]
            return attempts.done(report, running.place)
        running.place, running.begun = report, time.monotonic()
        self._notify(Event("started", running.task, running.place))
        return None

    def _until_deadline(self) -> float | None:
        begun = [running.begun for running in self._running.values() if running.begun is not None]
        if self._policy.timeout is None or not begun:
            return None
        return max(0.0, min(begun) + self._policy.timeout - time.monotonic())

    def _cancel_overdue(self, attempts: Attempts) -> Iterator[Outcome]:
        limit = self._policy.timeout
        for reports, running in list(self._running.items()):
            if limit is None or running.begun is None or running.seconds < limit:
                continue
            self._kill(reports)
            outcome = attempts.lost(running.task, f"took longer than {limit:g} s", limit, running.place)
            if outcome is not None:
                yield outcome

    def _kill(self, reports: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.cancel(reports, force=True)
        del self._running[reports]

    def _room(self, wanted: dict[str, float]) -> int:
        """How many candidates the cluster's nodes can run at a time."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needed = {name: amount for name, amount in wanted.items() if amount > 0}
        room = sum(
            min((int(node.get(name, 0) / amount) for name, amount in needed.items()), default=1)
            for node in nodes
        )
        if room == 0:
            largest = {name: max(node.get(name, 0) for node in nodes) for name in needed}
            raise SearchError(
                f"a candidate needs {needed} on one node, the cluster's largest has {largest}: lower "
                "--gpus-per-candidate or --cpus-per-candidate, or add nodes"
            )
        return room


@dataclass
class _Running:
    """A submitted task."""

    task: Task
    place: str = "the queue"
    begun: float | None = None  # on the monotonic clock; None: queued

    @property
    def seconds(self) -> float:
        return 0.0 if self.begun is None else time.monotonic() - self.begun


_problems: dict[str, Evaluate] = {}  # in a worker process: the search it works for


def _work(key: str, problem: np.ndarray, task: Task, threads: int) -> Iterator[str | Outcome]:
    """A Ray task: report the place, then the outcome."""
    import ray

    if key not in _problems:
        _problems.clear()
        _problems[key] = pickle.loads(problem.tobytes())
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    context = ray.get_runtime_context()
    gpus = "".join(f", GPU {gpu}" for gpu in ray.get_gpu_ids())
    address = ray.util.get_node_ip_address()
    yield f"node {address} {context.get_node_id()[:8]} (process {os.getpid()}{gpus})"
    yield run_task(_problems[key], task)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--executor ray needs Ray: pip install 'gee[ray]'") from error
    return ray
