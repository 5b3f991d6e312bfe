"""How everything in bench/ is measured: verify, then time, the contestants taking turns in one process.

    table = Table("neuron")
    table.add("lif forward", {"gee": f, "copy": g}, baseline="copy", verify=check, shape="4 x 1M")
    table.write()                                  # bench/results/neuron.json and neuron.png

Contestants alternate, so that whatever else slows the machine slows all of them; a ratio is taken within each
round and its median reported. Times of different rounds are not compared with one another.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
SAMPLE_SECONDS = 2e-3  # a shorter call is repeated until one sample takes this long


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Row:
    """One contestant in one case."""

    case: str
    contestant: str
    milliseconds: Spread
    baseline: str
    speedup: Spread  # time of the baseline / time of this contestant, within a round
    rounds: int
    threads: int
    parameters: dict[str, object]  # shape and whatever else defines the case


def alternate(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int = 11, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds per call of each contestant in each round; every round starts with another contestant."""
    names = list(contestants)
    calls = dict.fromkeys(names, 1)
    for name in names:
        seconds = min(_timed(contestants[name], 1) for _ in range(max(1, warmup)))
        calls[name] = max(1, round(SAMPLE_SECONDS / seconds))
    samples: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        shift = r % len(names)
        for name in names[shift:] + names[:shift]:
            samples[name].append(_timed(contestants[name], calls[name]))
    return samples


def _timed(call: Callable[[], object], calls: int) -> float:
    _synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    _synchronize()
    return (time.perf_counter() - begin) / calls


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Table:
    """Rows that end up in one JSON file and one plot, `bench/results/<name>.json` and `.png`.

    `facts` is written beside the environment: what else was measured of the machine.
    """

    def __init__(self, name: str, **facts: object) -> None:
        self.name = name
        self.facts = facts
        self.rows: list[Row] = []

    def add(
        self,
        case: str,
        contestants: Mapping[str, Callable[[], object]],
        *,
        baseline: str,
        verify: Callable[[], None],
        rounds: int = 11,
        warmup: int = 2,
        **parameters: object,
    ) -> dict[str, Row]:
        """Verify, then time a case.

        Args:
            case: what is compared, e.g. "lif forward".
            contestants: name to call; no arguments, the result is dropped.
            baseline: the contestant that speed-ups refer to.
            verify: raises where the contestants do not compute the same thing; runs first.
            rounds: how often each contestant is sampled.
            warmup: calls of each contestant before that.
            parameters: recorded with the case (shape, density, ...).

        Returns:
            The rows by contestant.
        """
        verify()
        samples = alternate(contestants, rounds=rounds, warmup=warmup)
        reference = samples[baseline]
        rows = {
            name: Row(
                case,
                name,
                Spread.of([1e3 * t for t in times]),
                baseline,
                Spread.of([b / t for b, t in zip(reference, times, strict=True)]),
                rounds,
                torch.get_num_threads(),
                parameters,
            )
            for name, times in samples.items()
        }
        self.rows += rows.values()
        return rows

    def write(self, folder: Path = RESULTS) -> None:
        """Write what was measured; nothing where no case was added."""
        if not self.rows:
            return
        folder.mkdir(parents=True, exist_ok=True)
        content = {"environment": self.environment(), "rows": [asdict(row) for row in self.rows]}
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")
        self.plot(folder / f"{self.name}.png")

    def environment(self) -> dict[str, object]:
        """Of this process, or of the one whose rows were read."""
        return environment() | self.facts

    def read(self, folder: Path = RESULTS) -> "Table":
        """Take the rows and facts of an earlier `write`, so that they can be drawn again; returns itself."""
        content = json.loads((folder / f"{self.name}.json").read_text())
        self.facts = content["environment"]
        self.rows = [
            Row(**row | {key: Spread(**row[key]) for key in ("milliseconds", "speedup")})
            for row in content["rows"]
        ]
        return self

    def plot(self, path: Path) -> None:
        """Draw every case as bars: one contestant each, with its speed against the baseline."""
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        cases = list(dict.fromkeys(_label(row) for row in self.rows))
        height = 0.6 + sum(0.26 * len(self._of(case)) + 0.35 for case in cases)
        figure, axes = pyplot.subplots(
            len(cases), 1, figsize=(8, height), squeeze=False, sharex=True, layout="constrained",
            height_ratios=[len(self._of(case)) + 1 for case in cases],
        )  # fmt: skip
        colours = {
            name: f"C{i % 10}" for i, name in enumerate(dict.fromkeys(r.contestant for r in self.rows))
        }
        for axis, case in zip(axes[:, 0], cases, strict=True):
            for i, row in enumerate(self._of(case)):
                t = row.milliseconds
                axis.barh(i, t.median, color=colours[row.contestant])
                axis.errorbar(t.median, i, xerr=[[t.median - t.low], [t.high - t.median]], color="black")
                axis.annotate(
                    f" {row.speedup.median:.2f}x", (t.high, i), va="center", fontsize=8, annotation_clip=False
                )
            axis.set_yticks(
                range(len(self._of(case))), [row.contestant for row in self._of(case)], fontsize=8
            )
            axis.set_xscale("log")
            axis.invert_yaxis()
            axis.set_title(f"{case} (x: speed against {self._of(case)[0].baseline})", fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
        axes[-1, 0].set_xlabel("milliseconds, median and quartiles")
        facts = self.environment()
        figure.suptitle(f"{facts['cpu']}, {self.rows[0].threads} threads, torch {facts['torch']}", fontsize=9)
        figure.savefig(path, dpi=120)
        pyplot.close(figure)

    def _of(self, case: str) -> list[Row]:
        return [row for row in self.rows if _label(row) == case]


def _label(row: Row) -> str:
    return ", ".join([row.case, *(f"{key} {value}" for key, value in row.parameters.items())])


def report(
    benchmark, rows: Mapping[str, Row], contestant: str, call: Callable[[], object], rounds: int = 3
) -> None:
    """Put `contestant` into pytest-benchmark's own table, the speed-ups measured before beside it."""
    for name, row in rows.items():
        benchmark.extra_info[name] = {
            "ms": round(row.milliseconds.median, 4),
            "times_baseline": round(row.speedup.median, 3),
        }
    benchmark.name = f"{rows[contestant].case} [{contestant}]"
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=0)


def environment() -> dict[str, object]:
    """What the figures depend on: processor, threads, versions, date."""
    packages = "torch", "triton", "spikingjelly", "snntorch", "norse", "numpy"
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
