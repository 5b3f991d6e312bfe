"""`python -m bench.paper.report`: one page that sets our results beside the paper's."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.paper import published
from bench.paper.options import RESULTS
from bench.paper.runner import Experiment
from gee.files import write_atomically
from gee.report import page

EXPERIMENTS = (
    "table1_energy",
    "table2_accuracy",
    "table3_spikes",
    "table4_ablations",
    "figure2_noise",
    "figure3_genes",
    "section44_search_time",
)


def experiment(name: str) -> Experiment:
    return importlib.import_module(f"bench.paper.{name}").EXPERIMENT


def render(results: Path) -> str:
    """The page about everything that lies in `results`.

    Raises:
        ValueError: a file there is damaged.
    """
    lead = (
        f"Ours beside: {published.SOURCE}. Accuracies are means and standard deviations over seeds, on "
        "images held out of training; each section says at which size it was run and what is scaled down."
    )
    return page.page("The paper's experiments", lead, _body(results))


def _body(results: Path) -> Iterator[str]:
    for name in EXPERIMENTS:
        one = experiment(name)
        parts = [page.paragraph(part) for part in one.text.strip().split("\n\n")]
        found = sorted(results.glob(f"{name}-*.json"))
        for path in found:
            parts += _result(one, path)
        if not found:
            parts.append(page.warning(f"Not run yet: python -m bench.paper.{name} --preset cpu"))
        yield page.section(one.title, *parts)


def _result(one: Experiment, path: Path) -> Iterator[str]:
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        picture = path.with_suffix(".svg").read_text(encoding="utf-8")
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): run `python -m bench.paper.{one.name}` again"
        ) from None
    yield page.warning(about["description"])
    yield page.table(*one.compare(about["rows"]))
    failures = [row for row in about["rows"] if row["failure"]]
    if failures:
        yield page.warning(f"{len(failures)} of {len(about['rows'])} failed: {failures[0]['failure']}")
    yield page.figure(picture, f"{one.title}; {about['dataset']}, {about['preset']} preset", "820px")
    yield page.details("How it was made", _conditions(about))


def _conditions(about: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in about["machine"].items())
    versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
    return "\n".join(
        [
            about["command"],
            f"seeds     {', '.join(map(str, about['seeds']))}",
            f"held out  {about['held_out']}",
            f"machine   {machine}; {about['threads']} threads",
            f"versions  {versions}",
            f"date      {about['date']}",
        ]
    )


def main(args: list[str] | None = None) -> None:
    """Parse the flags (None: `sys.argv`) and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.paper.report",
        description="Set the results of the paper's experiments beside the paper's, in one HTML page.",
        epilog="experiments: " + ", ".join(f"python -m bench.paper.{name}" for name in EXPERIMENTS),
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="where the experiments wrote"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: DIR/report.html)")
    options = parser.parse_args(args)
    output = options.output or options.results / "report.html"
    try:
        write_atomically(output, render(options.results))
    except (ValueError, OSError) as error:
        sys.exit(f"python -m bench.paper.report: {error}")
    print(output)


if __name__ == "__main__":
    main()
