"""Figure 2: accuracy under Gaussian noise whose norm is a share of each image's norm.

The paper adds noise of 50 % and names its accuracy there. The networks are those of Table 2, noise is added
to normalised images, and its norm is exact for each image.
"""

import json
from collections.abc import Sequence

from bench.paper import figures, published
from bench.paper.options import Configuration
from bench.paper.runner import Experiment, Row, Run, Table, main, row
from bench.paper.summary import Mean, groups, mean, seeds, show
from gee.data import Dataset
from gee.files import write_atomically
from gee.search.evolution import WEIGHTS
from gee.training import evaluate, load_model

LEVELS = (0.0, 0.125, 0.25, 0.375, 0.5)
CONFIGURATIONS = (Configuration("cifarnet", 200), Configuration("resnet19", 200))


def rows_of(run: Run, data: Dataset) -> list[Row]:
    accuracy = _accuracies(run, data) if run.result else {}
    clean = dict.fromkeys(("accuracy_low", "accuracy_high"))  # an interval of the clean images only
    return [row(run) | clean | {"noise": level, "accuracy": accuracy.get(str(level))} for level in LEVELS]


def _accuracies(run: Run, data: Dataset) -> dict[str, float]:
    """Accuracy by noise level; kept in the run's folder."""
    path = run.folder / "noise.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [level for level in LEVELS if str(level) not in known]
    if missing:
        model = load_model(run.folder / WEIGHTS)[0].to(run.config.device)
        for level in missing:
            batches = data.test_batches(256, device=run.config.device)
            known[str(level)] = evaluate(model, batches, noise=level, amp=run.config.training.amp).accuracy
        write_atomically(path, json.dumps(known, indent=2) + "\n")
    return known


def compare(rows: Sequence[Row]) -> Table:
    header = ["network, genes", *(f"noise {level:.1%}" for level in LEVELS), "seeds", "paper at 50 %"]
    lines = []
    for (model, genes), group in groups(rows, "network", "genes_paper"):
        by_level = {level: part for (level,), part in groups(group, "noise")}
        theirs = published.FIGURE2_ACCURACY.get(group[0]["dataset"])
        lines.append(
            [
                f"{model}, {genes}",
                *(show(mean(by_level[level], "accuracy", 100)) for level in LEVELS),
                seeds(by_level[LEVELS[0]]),
                f"{theirs:.1f}" if theirs else "-",
            ]
        )
    return header, lines


def figure(rows: Sequence[Row]) -> figures.Figure:
    lines = []
    for (model, genes), group in groups(rows, "network", "genes_paper"):
        levels = [(100 * level, mean(part, "accuracy", 100)) for (level,), part in groups(group, "noise")]
        lines.append(figures.Curve(f"{model}, g = {genes}", *zip(*levels, strict=True)))
    theirs = published.FIGURE2_ACCURACY.get(rows[0]["dataset"])
    if theirs:
        point = [100 * published.FIGURE2_NOISE], [Mean(theirs, None, 1)]
        lines.append(figures.Curve("the paper's", *point, paper=True))
    return figures.curves(lines, "norm of the noise (% of the image's)", "held-out accuracy (%)")


EXPERIMENT = Experiment(
    "figure2_noise", "Figure 2: robustness to noise", __doc__ or "", figure, compare, CONFIGURATIONS, rows_of
)

if __name__ == "__main__":
    main(EXPERIMENT)
