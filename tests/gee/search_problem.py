"""A search problem that takes no time, and faults on demand, for the tests of the search."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np

from gee.search.executor import Evaluation, Task
from gee.search.loop import Settings
from gee.search.run_directory import Candidate, RunDirectory

SETTINGS = Settings(generations=3, population=5, seed=7)


class Cube:
    """Four coordinates that mean nothing but themselves."""

    start = (0.5, 0.5, 0.5, 0.5)
    diagonal = False

    def describe(self, vector):
        return {"point": list(vector)}


@dataclasses.dataclass(frozen=True)
class Bowl:
    """CE is the squared distance to a point, with noise from the task's seed as training would have.

    faults: (generation, index) -> what happens there: `kill` and `hang`, the first time only (a file in
        `scratch` remembers), `kill always`, `nan`, `error`, `oom`, `oom once`
    """

    faults: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    scratch: Path | None = None
    seconds: float = 0.0

    def __call__(self, task: Task) -> Evaluation:
        if self.scratch is not None:
            with (self.scratch / "calls").open("a") as file:
                file.write(f"{task.generation}.{task.index}\n")
        time.sleep(self.seconds)
        fault = self.faults.get((task.generation, task.index), "")
        if fault in ("kill", "hang", "oom once"):
            mark = self.scratch / f"{task.generation}.{task.index}"
            fault = "" if mark.exists() else fault
            mark.touch()
        if fault.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            time.sleep(1000)
        if fault == "error":
            raise ValueError("a broken candidate")
        if fault.startswith("oom"):
            raise MemoryError
        noise = np.random.default_rng(task.seed).normal(scale=1e-3)
        distance = sum((u - 0.3) ** 2 for u in task.vector)
        ce = float("nan") if fault == "nan" else float(distance + noise)
        return Evaluation(ce, temporal_difference=task.vector[0], spatial_entropy=task.vector[1])


def outcome_of(run: RunDirectory | Path) -> set[Candidate]:
    """What must be the same however the search ran: every candidate, apart from the seconds it took."""
    if isinstance(run, Path):
        lines = (run / "candidates.jsonl").read_bytes().splitlines()
        candidates = [Candidate.from_line(line) for line in lines]
        assert len({(c.generation, c.index) for c in candidates}) == len(candidates)
    else:
        candidates = list(run.candidates.values())
    return {repr(dataclasses.replace(c, seconds=0.0)) for c in candidates}
