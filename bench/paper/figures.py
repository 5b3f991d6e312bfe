"""The two pictures that the experiments need: values by name, and curves; ours filled, the paper's hollow."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.paper.summary import Mean
from gee.report.figures import MUTED, SERIES, STYLE


class Curve(NamedTuple):
    """One line of `curves`; the paper's are drawn hollow and dashed."""

    label: str
    x: Sequence[float]
    y: Sequence[Mean | None]
    paper: bool = False


def values(
    names: Sequence[str],
    ours: Sequence[Mean | None],
    paper: Sequence[Sequence[float]],
    xlabel: str,
    *,
    log: bool = False,
) -> Figure:
    """A line for each name: our mean with its deviation, and what the paper reports (none, one or more)."""
    figure, axis = _axes(max(2.0, 0.34 * len(names) + 1.2))
    rows = list(range(len(names)))[::-1]
    drawn = [(value, y) for value, y in zip(ours, rows, strict=True) if value is not None]
    axis.errorbar(
        [value.mean for value, _ in drawn],
        [y for _, y in drawn],
        xerr=[value.deviation or 0.0 for value, _ in drawn],
        fmt="o",
        color=SERIES[0],
        capsize=3,
        label="ours: mean and deviation over seeds",
    )
    points = [(x, y) for xs, y in zip(paper, rows, strict=True) for x in xs]
    if points:
        axis.plot(*zip(*points, strict=True), "D", color=SERIES[1], fillstyle="none", label="the paper's")
    axis.set_yticks(rows, names, fontsize=8)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_xlabel(xlabel)
    if log:
        axis.set_xscale("log")
    _legend(axis)
    return figure


def curves(lines: Sequence[Curve], xlabel: str, ylabel: str) -> Figure:
    """Means with deviations against x."""
    figure, axis = _axes(3.6)
    colors = {label: SERIES[n % len(SERIES)] for n, label in enumerate(line.label for line in lines)}
    for line in lines:
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        axis.errorbar(
            [x for x, _ in points],
            [y.mean for _, y in points],
            yerr=[y.deviation or 0.0 for _, y in points],
            fmt="D--" if line.paper else "o-",
            fillstyle="none" if line.paper else "full",
            color=colors[line.label],
            capsize=3,
            label=line.label,
        )
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    _legend(axis)
    return figure


def footnote(figure: Figure, text: str) -> Figure:
    """`figure` with the conditions below it, so that they are not lost when it is copied."""
    with matplotlib.rc_context(STYLE):
        figure.supxlabel("\n".join(textwrap.wrap(text, 120)), fontsize=7, color=MUTED, x=0.01, ha="left")
    return figure


def _axes(height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, height + 0.5), layout="constrained")
        return figure, figure.subplots()


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, loc="best")
