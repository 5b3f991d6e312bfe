"""Candidates in worker processes: the same search, whatever happens to the workers."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from gee.search.attempts import Attempts
from gee.search.errors import SearchError
from gee.search.executor import Evaluation, InProcess, Outcome, Policy, Task
from gee.search.loop import search
from gee.search.processes import LocalProcesses
from gee.search.run_directory import RunDirectory

from .search_problem import SETTINGS, Bowl, Cube, outcome_of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Best vector and candidates of the search in this process."""
    with RunDirectory.create(tmp_path_factory.mktemp("undisturbed"), {}) as run:
        return search(InProcess(Bowl()), Cube(), SETTINGS, run).vector, outcome_of(run)


def run_search(path, workers, evaluate, policy=Policy(), settings=SETTINGS):  # noqa: B008
    events = []
    executor = LocalProcesses(evaluate, workers, events.append, policy)
    try:
        with RunDirectory.create(path / "run", {}) as run:
            return (search(executor, Cube(), settings, run).vector, outcome_of(run)), events
    finally:
        executor.close()
        assert not psutil.Process().children(recursive=False) or all(
            "gee-worker" not in " ".join(child.cmdline()) for child in psutil.Process().children()
        )


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_candidates(tmp_path, undisturbed, workers):
    result, events = run_search(tmp_path, workers, Bowl(seconds=0.02))
    assert result == undisturbed
    assert {event.place.split(" (")[0] for event in events} <= {f"worker {i}" for i in range(workers)}
    if workers == 2:
        assert len({event.place for event in events}) == 2


def test_dead_and_hanging_workers_are_replaced_and_their_candidates_retried(tmp_path, undisturbed):
    evaluate = Bowl({(0, 1): "kill", (1, 0): "hang", (2, 3): "kill", (2, 4): "oom once"}, tmp_path)
    result, events = run_search(tmp_path, 2, evaluate, Policy(timeout=3.0, on_oom="retry"))
    assert result == undisturbed
    retried = {event.task.name: event.detail for event in events if event.kind == "retried"}
    assert retried == {
        "candidate 0.1": "worker died (SIGKILL)",
        "candidate 1.0": "took longer than 3 s",
        "candidate 2.3": "worker died (SIGKILL)",
        "candidate 2.4": "out of memory, runs again alone",
    }


def test_a_candidate_that_always_kills_its_worker_is_penalised(tmp_path):
    evaluate = Bowl({(0, 1): "kill always"}, tmp_path)
    settings = dataclasses.replace(SETTINGS, generations=1)
    (_, candidates), _ = run_search(tmp_path, 1, evaluate, Policy(retries=1), settings)
    assert sum("failure='worker died (SIGKILL), 2 times'" in c for c in candidates) == 1
    assert (tmp_path / "calls").read_text().count("0.1") == 2


class BrokenOnArrival:
    def __call__(self, task):
        raise AssertionError

    def __setstate__(self, state):
        raise RuntimeError("cannot be unpickled")


def test_workers_that_do_not_start_end_the_search(tmp_path):
    evaluate = BrokenOnArrival()
    evaluate.state = 1  # so that __setstate__ is called
    with pytest.raises(SearchError, match=r"do not start .*3 times.*--workers 0"):
        run_search(tmp_path, 1, evaluate)


DRIVER = """
import sys
from pathlib import Path
from tests.gee.search_problem import SETTINGS, Bowl, Cube
from gee.search.loop import search
from gee.search.processes import LocalProcesses
from gee.search.run_directory import RunDirectory

if __name__ == "__main__":
    with RunDirectory.create(sys.argv[1], {}) as run:
        executor = LocalProcesses(Bowl(seconds=60), 1, lambda event: print(event.place, flush=True))
        search(executor, Cube(), SETTINGS, run)
"""


def test_workers_end_when_their_driver_is_killed(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", tmp_path / "run"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    place = driver.stdout.readline()
    worker = psutil.Process(int(place.split("process ")[1].rstrip(")\n")))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    deadline = time.monotonic() + 10
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived its driver"
        time.sleep(0.05)


# Bookkeeping

TASKS = [Task(0, i, i, (0.0,)) for i in range(3)]


def outcome(task, **changes):
    return Outcome(task, Evaluation(1.0, 0.0, 0.0), None, 0.1, **changes)


def test_attempts_run_each_task_until_it_has_an_outcome():
    attempts = Attempts(TASKS, Policy(retries=1), lambda event: None)
    a, b, c = (attempts.next() for _ in TASKS)
    assert [a, b, c] == TASKS
    assert attempts.next() is None
    assert attempts.lost(b, "worker died", 1.0, "") is None
    assert attempts.next() == b
    assert attempts.lost(b, "worker died", 1.0, "").failure == "worker died, 2 times"
    assert attempts.done(outcome(a), "") == outcome(a)
    assert attempts
    assert attempts.done(outcome(c), "") == outcome(c)
    assert not attempts


def test_out_of_memory_runs_again_alone_and_once():
    attempts = Attempts(TASKS, Policy(on_oom="retry"), lambda event: None)
    a, b = attempts.next(), attempts.next()
    assert attempts.done(outcome(a, out_of_memory=True), "") is None
    c = attempts.next()
    assert c == TASKS[2]  # a waits until nothing else runs
    assert attempts.next() is None
    attempts.done(outcome(b), "")
    attempts.done(outcome(c), "")
    assert attempts.next() == a
    assert attempts.next() is None
    assert attempts.done(outcome(a, out_of_memory=True), "").out_of_memory
    assert not attempts
