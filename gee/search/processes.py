"""Candidates in worker processes of this machine: one that dies or hangs is replaced, its candidate retried.

The workers are spawned, so they share no state with the driver, and receive the problem (data included) once,
when they start. A worker whose driver is gone, killed for example, ends by itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from gee.search.attempts import Attempts
from gee.search.errors import SearchError
from gee.search.executor import Evaluate, Event, Notify, Outcome, Policy, Task, run_task

_SPAWN = multiprocessing.get_context("spawn")
_START_ATTEMPTS = 3  # of a worker, before the search gives up


class LocalProcesses:
    """`workers` processes, each with `threads` threads and, where there are GPUs, one of them in turn.

    gpus: names for CUDA_VISIBLE_DEVICES, one per GPU; worker i sees the one at i modulo their number
    """

    def __init__(
        self,
        evaluate: Evaluate,
        workers: int,
        notify: Notify = lambda event: None,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        threads: int = 1,
        gpus: Sequence[str] = (),
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.slots = workers
        # Plain pickle: torch's way to share tensors needs as much /dev/shm, of which containers have little.
        self._problem = pickle.dumps(evaluate, protocol=pickle.HIGHEST_PROTOCOL)
        self._notify, self._policy, self._threads, self._gpus = notify, policy, threads, gpus
        self._workers: list[_Worker | None] = [None] * workers
        self._failed_starts = 0

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        attempts = Attempts(tasks, self._policy, self._notify)
        while attempts:
            self._start(attempts.waiting)
            for worker in filter(None, self._workers):
                if worker.ready and worker.task is None and (task := attempts.next()):
                    worker.begin(task)
                    self._notify(Event("started", task, worker.place))
            yield from self._collect(attempts)

    def close(self) -> None:
        for number, worker in enumerate(self._workers):
            if worker is not None:
                worker.kill()
                self._workers[number] = None

    def _start(self, wanted: int) -> None:
        """Have as many idle or starting workers as tasks wait, while there are free places."""
        idle = sum(worker is not None and worker.task is None for worker in self._workers)
        for number, worker in enumerate(self._workers):
            if worker is None and idle < wanted:
                gpu = self._gpus[number % len(self._gpus)] if self._gpus else None
                self._workers[number] = _Worker(number, self._problem, self._threads, gpu)
                idle += 1

    def _collect(self, attempts: Attempts) -> Iterator[Outcome]:
        """Wait until a worker reports, dies or overruns; yield what is then decided."""
        workers = [worker for worker in self._workers if worker is not None]
        limit = self._policy.timeout
        deadlines = [w.begun + limit for w in workers if limit is not None and w.task is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        # A dead worker closes its connection, unless children of its own still hold it: so the sentinel, too.
        reported = set(
            wait([*(w.connection for w in workers), *(w.process.sentinel for w in workers)], timeout)
        )
        for worker in workers:
            outcome: Outcome | None = None
            if worker.connection in reported:
                message = worker.receive()
                if message is None:
                    outcome = self._bury(worker, attempts)
                elif isinstance(message, Outcome):
                    worker.task = None
                    outcome = attempts.done(message, worker.place)
                else:
                    worker.ready, self._failed_starts = True, 0
            elif worker.process.sentinel in reported:
                outcome = self._bury(worker, attempts)
            elif limit is not None and worker.task and time.monotonic() >= worker.begun + limit:
                task, worker.task = worker.task, None
                worker.kill()
                self._workers[worker.number] = None
                outcome = attempts.lost(task, f"took longer than {limit:g} s", limit, worker.place)
            if outcome is not None:
                yield outcome

    def _bury(self, worker: _Worker, attempts: Attempts) -> Outcome | None:
        """A worker has died: free its place, and say what becomes of its task."""
        worker.kill()
        self._workers[worker.number] = None
        code = worker.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if worker.task is not None:
            return attempts.lost(
                worker.task, f"worker died ({how})", time.monotonic() - worker.begun, worker.place
            )
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _START_ATTEMPTS:
                raise SearchError(
                    f"worker processes do not start ({how}, {self._failed_starts} times): their error is "
                    "above; use --workers 0 to run in this process"
                )
        return None


class _Worker:
    """The driver's end of one worker process."""

    def __init__(self, number: int, problem: bytes, threads: int, gpu: str | None) -> None:
        self.number, self.ready = number, False
        self.task: Task | None = None
        self.begun = 0.0  # of the task, on the monotonic clock
        self.connection, theirs = _SPAWN.Pipe()
        self.process: SpawnProcess = _SPAWN.Process(
            target=_work, args=(theirs, problem, threads, gpu), name=f"gee-worker-{number}", daemon=True
        )
        self.process.start()
        theirs.close()
        self.place = f"worker {number} (process {self.process.pid})"

    def begin(self, task: Task) -> None:
        self.task, self.begun = task, time.monotonic()
        with contextlib.suppress(OSError):  # it died meanwhile; the next wait finds out
            self.connection.send(task)

    def receive(self) -> Outcome | str | None:
        """What it has to say; None: it is dead."""
        try:
            return self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # the last: killed while it wrote
            return None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, problem: bytes, threads: int, gpu: str | None) -> None:
    """The worker process: receive tasks, send outcomes, until the driver hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which decides
    threading.Thread(target=_end_with_driver, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # many processes on few cores: waiting must not spin
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    evaluate: Evaluate = pickle.loads(problem)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    connection.send("ready")
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(run_task(evaluate, task))


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
