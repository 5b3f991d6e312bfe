"""What a search tells while it runs: lines and a bar, the log of the run, scalars for TensorBoard."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from gee.search.config import SearchConfig
from gee.search.executor import Event
from gee.search.loop import Callback
from gee.search.run_directory import Candidate, RunDirectory

HEADER = "generation   best F   mean F       CE      TD      SE   failed   seconds   best so far   remaining"


class Progress(Callback):
    """A line per generation, what is tried again, and on a terminal a bar that says what runs where."""

    def __init__(self, config: SearchConfig, slots: int, known: int) -> None:
        self.config, self.slots = config, slots
        total = config.generations * config.population
        self.bar = tqdm(
            total=total, initial=known, unit=" candidates", dynamic_ncols=True, leave=False, disable=None
        )
        self.begun = time.perf_counter()
        self.running: dict[str, str] = {}  # candidate -> place
        self.seconds: list[float] = []  # of the candidates of this session
        tqdm.write(HEADER)

    def on_event(self, event: Event) -> None:
        if event.kind == "started":
            self.running[event.task.name] = event.place
        else:
            self.running.pop(event.task.name, None)
        if event.kind in ("retried", "lost"):
            again = ", tried again" if event.kind == "retried" else ""
            tqdm.write(f"  {event.task.name} on {event.place}: {event.detail}{again}")
        where = [f"{name.removeprefix('candidate ')} on {place}" for name, place in self.running.items()]
        self.bar.set_postfix_str("; ".join(where), refresh=False)

    def on_candidate(self, candidate: Candidate) -> None:
        self.bar.update()
        self.seconds.append(candidate.seconds)
        if candidate.failure:
            tqdm.write(f"  candidate {candidate.generation}.{candidate.index} failed: {candidate.failure}")

    def on_generation(self, generation: int, candidates: Sequence[Candidate], best: Candidate) -> None:
        good = [c for c in candidates if c.fitness is not None]
        values = [c.fitness for c in good if c.fitness is not None]
        first = good[values.index(min(values))]
        tqdm.write(
            f"{generation:>10d} {min(values):>8.4f} {statistics.fmean(values):>8.4f} "
            f"{first.cross_entropy:>8.4f} {first.temporal_difference:>7.4f} {first.spatial_entropy:>7.4f} "
            f"{len(candidates) - len(good):>8d} {sum(c.seconds for c in candidates):>9.1f} "
            f"{f'{best.generation}.{best.index}':>13} {self._remaining(generation):>11}"
        )

    def on_stage(self, stage: str) -> None:
        if stage != "searching":
            self.bar.close()

    def _remaining(self, generation: int) -> str:
        """Of the generations to come and of the full training, from the candidates of this session."""
        if not self.seconds:
            return "read back"
        mean, config = statistics.fmean(self.seconds), self.config
        rest = (config.generations - 1 - generation) * config.population / self.slots
        return duration(mean * (rest + config.training.epochs / config.candidate_epochs))


class LogEvents(Callback):
    """Writes retries and losses into search.log."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def on_event(self, event: Event) -> None:
        if event.kind in ("retried", "lost"):
            self.run.log(f"{event.task.name} on {event.place}: {event.kind}, {event.detail}")


class Scalars(Callback):
    """TensorBoard scalars by generation, written anew when a run is resumed: no point twice, none missing."""

    def __init__(self, run: RunDirectory, wanted: str) -> None:
        self.writer: Any = None
        if wanted == "off" or (wanted == "auto" and not importlib.util.find_spec("tensorboard")):
            return
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))

    def on_generation(self, generation: int, candidates: Sequence[Candidate], best: Candidate) -> None:
        if self.writer is None:
            return
        for name in ("fitness", "cross_entropy", "temporal_difference", "spatial_entropy"):
            values = [v for c in candidates if (v := getattr(c, name)) is not None]
            self.writer.add_scalar(f"{name}/mean", statistics.fmean(values), generation)
            self.writer.add_scalar(f"{name}/lowest", min(values), generation)
        for group, numbers in best.genotype.items():
            for name, value in numbers.items():
                self.writer.add_scalar(f"best_{group}/{name}", value, generation)
        self.writer.add_scalar("failed", sum(c.failure is not None for c in candidates), generation)
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def duration(seconds: float) -> str:
    """Seconds in words of at most two units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
