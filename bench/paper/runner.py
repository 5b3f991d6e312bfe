"""What all experiments share: run what is missing, gather rows, write a table, a figure and its conditions.

A run is a run directory of `gee.search.evolve`, named by everything that its outcome depends on. So a run
that was interrupted goes on candidate by candidate and epoch by epoch, a finished one is only read, and
experiments with equal runs share them.
"""

import csv
import hashlib
import io
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from bench.paper.figures import footnote
from bench.paper.options import Configuration, Options
from gee import config as configuration_files
from gee.data import DataError, Dataset
from gee.files import write_atomically
from gee.models.summary import summarise
from gee.report.figures import svg
from gee.search import SearchConfig, evolve
from gee.search.errors import SearchError, TooManyFailuresError
from gee.search.run_directory import MAY_CHANGE, machine, versions
from gee.training import NonFiniteLossError, WeightsError

Row = dict[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header, rows of text


@dataclass(frozen=True)
class Run:
    """One configuration with one seed: where it lies, and what came out; no result where it failed."""

    configuration: Configuration
    config: SearchConfig
    folder: Path
    result: dict[str, Any] | None
    failure: str


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper. Give `configurations` to train, or `measure` to do something else."""

    name: str  # of the module, and of the files written
    title: str
    text: str  # its --help, and its introduction in the report
    figure: Callable[[Sequence[Row]], Figure]
    compare: Callable[[Sequence[Row]], Table]  # ours beside the paper's
    configurations: tuple[Configuration, ...] = ()
    rows_of: Callable[[Run, Dataset], list[Row]] = field(default=lambda run, data: [row(run)])
    measure: Callable[[Options, Dataset], list[Row]] | None = None
    describe: Callable[[Options, Dataset], str] = Options.describe  # what was done, and how it is scaled down


def main(experiment: Experiment, args: Sequence[str] | None = None) -> None:
    """Parse the flags (None: `sys.argv`) and run `experiment`; ends with a message if something is wrong."""
    prog = f"python -m bench.paper.{experiment.name}"
    given = list(sys.argv[1:] if args is None else args)
    flags = make_dataclass(
        "Options", [], bases=(Options,), namespace={"__doc__": f"{experiment.text}\n{EXAMPLES}".format(prog)}
    )
    options = configuration_files.parse(flags, given, prog=prog)
    try:
        data = options.data.load()
        if options.plan:
            print(plan(experiment, options, data))
            return
        rows = gather(experiment, options, data)
        path = write(experiment, options, data, rows, command=_command(prog, given))
    except (SearchError, DataError, WeightsError, ValueError, OSError) as error:
        raise SystemExit(f"{prog}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"{prog}: interrupted; the same command continues where it stopped") from None
    print(f"\n{experiment.describe(options, data)}\n\n{text_table(experiment.compare(rows))}\n\n{path}")


EXAMPLES = """
Examples:
    {0} --preset cpu --data-dir data --seeds 3
        scaled-down networks on CIFAR-10
    {0} --preset gpu --seeds 3 --plan
        the paper's size: list the runs, and which of them are done
    {0} --dataset digits --epochs 4 --seeds 1
        nothing to download; a part of the preset changed

The CIFAR-10 files are the official binary or python version. Where test_batch.bin is not among the binary
files, batches 1 to 4 are trained on and batch 5 is held out; every output says which it was.
"""


def gather(experiment: Experiment, options: Options, data: Dataset) -> list[Row]:
    """All rows of the experiment, after running whatever is not there yet."""
    if experiment.measure is not None:
        return experiment.measure(options, data)
    rows = []
    jobs = list_jobs(experiment, options)
    for number, (configuration, seed) in enumerate(jobs, 1):
        if options.progress:
            print(f"[{number}/{len(jobs)}] {configuration.name}, {configuration.method}, seed {seed}")
        run = execute(options, configuration, seed, data)
        rows += [conditions(options, data) | row for row in experiment.rows_of(run, data)]
    return rows


def list_jobs(experiment: Experiment, options: Options) -> list[tuple[Configuration, int]]:
    """Every configuration with every seed, seed by seed, so that an early stop leaves whole repetitions.

    Raises:
        ValueError: `options.networks` names one that the experiment does not have.
    """
    known = list(dict.fromkeys(configuration.model for configuration in experiment.configurations))
    unknown = [name for name in options.networks if name not in known]
    if unknown:
        raise ValueError(f"networks must be among {', '.join(known)}, got {', '.join(unknown)}")
    wanted = options.networks or known
    return [
        (configuration, seed)
        for seed in range(options.seeds)
        for configuration in experiment.configurations
        if configuration.model in wanted
    ]


def plan(experiment: Experiment, options: Options, data: Dataset) -> str:
    """The runs of the experiment as text, and which of them are done."""
    lines = [experiment.describe(options, data)]
    for configuration, seed in list_jobs(experiment, options):
        folder = folder_of(options, options.search(configuration, seed), data)
        state = "begun" if (folder / "config.json").exists() else "to do"
        state = "done" if (folder / "result.json").exists() else state
        lines.append(f"{state:<6} {configuration.name:<30} {configuration.method:<12} seed {seed}  {folder}")
    return "\n".join(lines)


def execute(options: Options, configuration: Configuration, seed: int, data: Dataset) -> Run:
    """Run, continue or read the run of `configuration` with `seed`.

    A run that diverges is a result too: it has a failure instead of figures.
    """
    config = options.search(configuration, seed)
    folder = folder_of(options, config, data)
    done, failure = folder / "result.json", ""
    if not done.exists():
        begun = (folder / "config.json").exists()
        try:
            evolve(replace(config, resume=folder) if begun else replace(config, run_dir=folder))
        except (NonFiniteLossError, TooManyFailuresError) as error:
            failure = str(error)
    result = None if failure else json.loads(done.read_text(encoding="utf-8"))
    return Run(configuration, config, folder, result, failure)


def folder_of(options: Options, config: SearchConfig, data: Dataset) -> Path:
    """A run's folder: named by all that its outcome depends on, what is held out included."""
    values = configuration_files.to_dict(config)
    fixed = {key: value for key, value in values.items() if key not in MAY_CHANGE}
    fixed["data"] = {key: value for key, value in values["data"].items() if f"data.{key}" not in MAY_CHANGE}
    content = json.dumps([fixed, data.note, data.train_size], sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:10]
    network = config.network
    return options.run_dir / (
        f"{data.name}-{network.model}-g{network.genes}-{config.method}-s{config.training.seed}-{key}"
    )


def row(run: Run) -> Row:
    """The columns that every trained network has; figures are empty where the run failed."""
    result, config, network = run.result or {}, run.config, run.config.network
    low, high = result.get("accuracy_interval", (None, None))
    energy, seconds = result.get("energy", {}), result.get("seconds", {})
    return {
        "network": run.configuration.model,
        "tail_channels": run.configuration.tail_channels,
        "genes_paper": run.configuration.genes,
        "genes": network.genes,
        "method": run.configuration.method,
        "candidate_epochs": config.candidate_epochs,
        "seed": config.training.seed,
        "accuracy": result.get("accuracy"),
        "accuracy_low": low,
        "accuracy_high": high,
        "parameters": result.get("parameters"),
        "dense_parameters": result.get("dense_parameters"),
        "spikes": energy.get("spikes"),
        "acs": energy.get("acs"),
        "macs": energy.get("macs"),
        "energy_mj": energy.get("energy_mj"),
        "search_seconds": seconds.get("candidates"),
        "training_seconds": seconds.get("training"),
        "failure": run.failure,
    }


def conditions(options: Options, data: Dataset) -> Row:
    """The columns that say under which conditions a row was made."""
    scale = options.scale
    return {
        "preset": options.preset,
        "dataset": data.name,
        "held_out": data.note,
        "image_size": data.shape[-1],
        "train_images": data.train_size,
        "test_images": data.test_size,
        "width": scale.width,
        "epochs": scale.epochs,
        "generations": scale.generations,
        "population": scale.population,
    }


def paper_size_parameters(configuration: Configuration, classes: int) -> int:
    """Parameters of the network at the paper's size, counted without making it."""
    options = {"tail_channels": configuration.tail_channels} if configuration.tail_channels else {}
    rows = summarise(configuration.model, genes=configuration.genes, num_classes=classes, **options)
    return sum(layer.parameters for layer in rows)


def write(
    experiment: Experiment, options: Options, data: Dataset, rows: Sequence[Row], *, command: str
) -> Path:
    """Write NAME.csv, NAME.svg and NAME.json (how they were made) into `options.results`.

    Returns:
        the table's path.
    """
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{experiment.name}-{data.name}-{options.preset}.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    about = {
        "experiment": experiment.name,
        "command": command,
        "description": experiment.describe(options, data),
        "preset": options.preset,
        "dataset": data.name,
        "held_out": rows[0]["held_out"],
        "seeds": list(range(options.seeds)),
        "scale": asdict(options.scale) if experiment.measure is None else None,
        "machine": machine() | _accelerator(options.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    figure = footnote(experiment.figure(rows), experiment.describe(options, data))
    write_atomically(path.with_suffix(".svg"), svg(figure))
    write_atomically(path, text.getvalue())
    write_atomically(path.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
    return path


def text_table(table: Table) -> str:
    """A table for the terminal."""
    header, rows = table
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _command(prog: str, args: Sequence[str]) -> str:
    """The command as others would type it: of absolute paths only the last name is kept."""
    return shlex.join([*prog.split(), *(Path(arg).name if arg.startswith("/") else arg for arg in args)])


def _accelerator(device: str) -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {}
