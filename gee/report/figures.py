"""The pictures of a report, each from plain numbers to a matplotlib Figure; `svg` makes text of one."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.ticker
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2430", "#6b7686", "#e3e7ec"
SERIES = ("#0f7b6c", "#d9622b", "#3b5bdb", "#a53f8f", "#8a6d1a", "#5c6770")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=SERIES),
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "gee",
}


def svg(figure: Figure) -> str:
    """`figure` as an inline `<svg>` element, the same text for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Sized by the page, not by the figure's inches.
    return re.sub(
        r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"|(<svg[^>]*?) width="[^"]*" height="[^"]*"',
        _unsize,
        text,
        count=1,
    )


def _unsize(match: re.Match) -> str:
    return (match.group(1) or "") + (match.group(2) or "") + (match.group(3) or "")


def _axes(width: float = 6.4, height: float = 3.2, columns: int = 1):
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns)
    return figure, axes


def fitness_by_generation(runs: Mapping[str, tuple[Sequence[Mapping], Sequence[float | None]]]) -> Figure:
    """Every candidate's fitness (lower is better) and the best so far; runs: name -> (candidates, scores)."""
    figure, axis = _axes()
    for color, (name, (candidates, scores)) in zip(_cycle(SERIES), runs.items(), strict=False):
        done = [(c, score) for c, score in zip(candidates, scores, strict=True) if score is not None]
        generation = np.array([c["generation"] for c, _ in done])
        fitness = np.array([score for _, score in done], dtype=float)
        index = np.array([c["index"] for c, _ in done], dtype=float)
        beside = (index - index.mean()) / max(1.0, np.ptp(index)) * 0.5 if len(index) else index
        axis.plot(
            generation + beside, fitness, "o", color=color, alpha=0.45, markersize=4.5, markeredgewidth=0
        )
        failed = [c["generation"] for c in candidates if c["failure"] is not None]
        if failed and len(fitness):
            axis.plot(failed, [fitness.max()] * len(failed), "x", color=MUTED, label=f"{name}: failed")
        steps = sorted(set(generation.tolist()))
        lowest = [fitness[generation == g].min() for g in steps]
        best = np.minimum.accumulate(lowest) if steps else np.array([])
        label = f"{name}: best so far" if len(runs) > 1 else "best so far"
        axis.plot(steps, best, color=color, linewidth=2, label=label)
    axis.set_xlabel("generation")
    axis.set_ylabel("fitness F (lower is better)")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    return figure


def fitness_parts(candidates: Sequence[Mapping]) -> Figure:
    """CE, TD and SE of every candidate by generation: what the fitness is made of (Eqs. 13-16)."""
    figure, axes = _axes(width=9.2, height=2.6, columns=3)
    done = [c for c in candidates if c["failure"] is None]
    titles = {
        "cross_entropy": "cross-entropy CE",
        "temporal_difference": "temporal difference TD",
        "spatial_entropy": "spatial entropy SE",
    }
    for axis, color, (key, title) in zip(axes, SERIES, titles.items(), strict=False):
        by_generation: dict[int, list[float]] = {}
        for c in done:
            by_generation.setdefault(c["generation"], []).append(c[key])
        axis.plot(
            [c["generation"] for c in done],
            [c[key] for c in done],
            "o",
            color=color,
            alpha=0.45,
            markersize=4,
        )
        axis.plot(
            list(by_generation),
            [float(np.median(v)) for v in by_generation.values()],
            color=color,
            linewidth=2,
        )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("generation")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def truncated_normals(rows: Sequence[tuple[str, Mapping[str, Mapping[str, float]]]]) -> Figure:
    """Densities of the evolved distributions, the last row in front.

    rows: (label, {"encodings": {"sigma", "low", "high"}, "interaction": the same}).
    """
    figure, axes = _axes(width=9.2, height=2.8, columns=2)
    for axis, key, title in zip(
        axes, ("encodings", "interaction"), ("neuronal encodings X", "gene interaction G"), strict=True
    ):
        for n, (label, genotype) in enumerate(rows):
            p = genotype[key]
            low, high, sigma = p["low"], p["high"], p["sigma"]
            x = np.linspace(low, high, 240)
            density = np.exp(-0.5 * (x / sigma) ** 2)
            density /= np.trapezoid(density, x) if high > low else 1.0
            last = n == len(rows) - 1
            color = SERIES[0] if last else MUTED
            alpha = 1.0 if last else 0.25 + 0.4 * n / len(rows)
            x, density = np.r_[low, x, high], np.r_[0, density, 0]
            axis.plot(x, density, color=color, alpha=alpha, linewidth=2 if last else 1, label=label)
            if last:
                axis.fill_between(x, density, color=color, alpha=0.12, linewidth=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("initial value")
        axis.set_ylabel("density")
    axes[-1].legend(fontsize=8)
    return figure


def training_curves(runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Loss and accuracy by epoch; `runs` maps a name to the lines of its metrics.jsonl."""
    figure, (left, right) = _axes(width=9.2, height=3.0, columns=2)
    for color, (name, lines) in zip(_cycle(SERIES), runs.items(), strict=False):
        prefix = f"{name}: " if len(runs) > 1 else ""
        for axis, train, test in (
            (left, "loss", "test_loss"),
            (right, "accuracy", "test_accuracy"),
        ):
            for key, style, label in ((train, "--", "training"), (test, "-", "held out")):
                points = [(line["epoch"], line[key]) for line in lines if line.get(key) is not None]
                if points:
                    axis.plot(
                        *zip(*points, strict=True), style, color=color, label=prefix + label, linewidth=1.8
                    )
    left.set_ylabel("cross-entropy")
    right.set_ylabel("accuracy")
    right.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=None))
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return figure


def by_layer(names: Sequence[str], rates: Sequence[float], spikes: Sequence[float]) -> Figure:
    """Firing rate (spikes per neuron and step) and spikes per image of every spiking layer."""
    figure, (left, right) = _axes(width=9.2, height=max(2.2, 0.24 * len(names) + 0.9), columns=2)
    position = np.arange(len(names))[::-1]
    for axis, values, color, label in (
        (left, rates, SERIES[0], "firing rate (spikes per neuron and step)"),
        (right, spikes, SERIES[1], "spikes per image"),
    ):
        axis.barh(position, values, color=color, height=0.68)
        axis.set_yticks(position, names if axis is left else [""] * len(names), fontsize=8)
        axis.set_xlabel(label)
        axis.grid(axis="y", visible=False)
    return figure


def energy(
    names: Sequence[str], acs: Sequence[float], macs: Sequence[float], dense: Sequence[float]
) -> Figure:
    """Energy of every layer in microjoule per image, accumulations and multiplications, beside the dense "
    "twin's."""
    figure, axis = _axes(width=9.2, height=max(2.4, 0.3 * len(names) + 0.9))
    position = np.arange(len(names))[::-1]
    axis.barh(position + 0.2, acs, height=0.38, color=SERIES[0], label="accumulations (0.9 pJ each)")
    axis.barh(
        position + 0.2, macs, left=acs, height=0.38, color=SERIES[1], label="multiplications (4.6 pJ each)"
    )
    axis.barh(position - 0.2, dense, height=0.38, color="#c3cad3", label="conventional network, one pass")
    axis.set_yticks(position, names, fontsize=8)
    axis.set_xlabel("energy in µJ per image, 45 nm float32")
    axis.grid(axis="y", visible=False)
    axis.legend()
    return figure


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Held-out samples by true (rows) and predicted class (columns)."""
    counts = np.asarray(matrix)
    size = min(7.0, 2.6 + 0.34 * len(classes))
    figure, axis = _axes(width=size, height=size)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(
        share,
        cmap=matplotlib.colors.LinearSegmentedColormap.from_list("gee", ["#ffffff", SERIES[0]]),
        vmin=0,
        vmax=1,
    )
    axis.grid(visible=False)
    if len(classes) <= 20:
        axis.set_xticks(range(len(classes)), classes, rotation=0 if max(map(len, classes)) < 3 else 60)
        axis.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if share[row, column] > 0.6 else INK
                axis.text(column, row, str(count), ha="center", va="center", fontsize=7.5, color=color)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    return figure


def fitness_against_accuracy(points: Sequence[tuple[str, float, float]]) -> Figure:
    """One point a run: (name, fitness of the best candidate, final held-out accuracy)."""
    figure, axis = _axes(width=5.4, height=3.4)
    for name, fitness, accuracy in points:
        axis.plot(fitness, accuracy, "o", color=SERIES[0])
        axis.annotate(
            name, (fitness, accuracy), xytext=(5, 4), textcoords="offset points", fontsize=8, color=MUTED
        )
    axis.set_xlabel("fitness of the best candidate")
    axis.set_ylabel("held-out accuracy")
    return figure


def _cycle(values):
    while True:
        yield from values
